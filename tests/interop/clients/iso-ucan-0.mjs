// iso-ucan 0.5.0: UCAN 1.0, posted as its own client posts it; with proofs, in a container.
import assert from 'node:assert/strict'
import { encode } from '@ipld/dag-cbor'
import { MemoryDriver } from 'iso-kv/drivers/memory.js'
import { EdDSASigner } from 'iso-signatures/signers/eddsa.js'
import * as EdDSA from 'iso-signatures/verifiers/eddsa.js'
import { Resolver } from 'iso-signatures/verifiers/resolver.js'
import { Capability } from 'iso-ucan/capability'
import { Delegation } from 'iso-ucan/delegation'
import { Invocation } from 'iso-ucan/invocation'
import { cidSchema, receipt, receiptResult } from 'iso-ucan/rpc'
import { Store } from 'iso-ucan/store'
import { z } from 'zod'
import { check, nextSecond, object } from '../checks.mjs'
import { randomCAR } from '../input.mjs'
import { quota, service, ucan1 } from '../service.mjs'

const RAW_CONTAINER = 0x40
const verifierResolver = new Resolver(EdDSA.verifier)

// Links travel as text: iso-ucan takes none in arguments.
const args = z.object({ link: z.string(), size: z.number().optional() })
const add = Capability.from({ cmd: '/store/add', schema: args })
const get = Capability.from({ cmd: '/store/get', schema: args })
const list = Capability.from({ cmd: '/store/list', schema: z.object({}) })
const remove = Capability.from({ cmd: '/store/remove', schema: args })

const ok = receiptResult(z.looseObject({}))
const failed = z.object({ cid: cidSchema, error: z.looseObject({ code: z.string(), message: z.string() }) })
const answer = receipt(ok, failed)

const newKey = () => EdDSASigner.generate()
const own = (space, args) => ({ iss: space, sub: space.did, aud: service.did(), args, verifierResolver, store: null })

/** POST the invocation; its answer, `{status, cid, result}` or `{status, cid?, error}`. */
async function send({ bytes, delegations }) {
  return await post(delegations.length ? container([bytes, ...delegations.map((d) => d.bytes)]) : bytes)
}

async function post(body) {
  const reply = await fetch(ucan1, { method: 'POST', body })
  if (reply.status === 404) {
    throw Object.assign(new Error(await reply.text()), { name: 'HandlerNotFound' })
  }
  return { status: reply.status, ...answer.parse(await reply.json()) }
}

/** `{"ctn-v1": [token…]}` in sorted order, after the byte that says "not compressed, not text". */
function container(tokens) {
  const body = encode({ 'ctn-v1': tokens.sort(Buffer.compare) })
  return Buffer.concat([Buffer.of(RAW_CONTAINER), body])
}

/** Ask for a place, put the CAR there, and give the answer. */
async function upload(space, car) {
  const { result } = await send(await add.invoke(own(space, wanted(car))))
  assert.equal(result.status, 'upload')
  const put = await fetch(result.url, { method: 'PUT', headers: result.headers, body: car.bytes })
  assert.equal(put.status, 200)
  return result
}

function wanted({ link, bytes }) {
  return { link: `${link}`, size: bytes.length }
}

await check('/store/add uploads', async () => {
  const [space, car] = [await newKey(), await randomCAR(10_000)]
  const { allocated } = await upload(space, car)
  assert.equal(allocated, car.bytes.length)
  return [object(car.link, car.bytes.length)]
})

await check('/store/add again is done', async () => {
  const [space, car] = [await newKey(), await randomCAR(5_000)]
  await upload(space, car)
  const { result } = await send(await add.invoke(own(space, wanted(car))))
  assert.equal(result.status, 'done')
  assert.equal(result.allocated, 0)
  return [object(car.link, car.bytes.length)]
})

await check('a repeat gets the first answer', async () => {
  const invocation = await add.invoke(own(await newKey(), wanted(await randomCAR(100))))
  const first = await send(invocation)
  assert.equal(`${first.cid}`, `${invocation.cid}`)
  assert.deepEqual(await send(invocation), first)
})

await check('ten /store/add at once', async () => {
  const [space, car] = [await newKey(), await randomCAR(100)]
  const invocations = await Promise.all(
    Array.from({ length: 10 }, () => add.invoke(own(space, wanted(car))))
  )
  const answers = await Promise.all(invocations.map(send))
  const allocated = answers.reduce((total, { result }) => total + result.allocated, 0)
  assert.equal(allocated, car.bytes.length)
})

const unless = quota ? null : 'the service has no quota'
await check('/store/add keeps the quota', async () => {
  const space = await newKey()
  const half = (link) => ({ link: `${link}`, size: Math.ceil(quota * 0.6) })
  const [one, other] = [await randomCAR(10), await randomCAR(20)]
  await send(await add.invoke(own(space, half(one.link))))
  const { error } = await send(await add.invoke(own(space, half(other.link))))
  assert.equal(error.code, 'InsufficientStorage')
}, { unless })

await check('a chain of two with policies', async () => {
  const [space, friend, guest, car] = [await newKey(), await newKey(), await newKey(), await randomCAR(100)]
  const store = new Store(new MemoryDriver())
  const terms = { sub: space.did, exp: null, store }
  await add.delegate({ ...terms, iss: space, aud: friend.did, pol: [['<=', '.size', 1000]] })
  await add.delegate({ ...terms, iss: friend, aud: guest.did, pol: [['like', '.link', 'bag*']] })
  const invocation = await add.invoke({ ...own(space, wanted(car)), iss: guest, store })
  assert.equal(invocation.delegations.length, 2)
  assert.equal((await send(invocation)).result.status, 'upload')
})

await check('a policy is kept', async () => {
  const [space, guest] = [await newKey(), await newKey()]
  const proof = await delegated(space, guest, { pol: [['<=', '.size', 10]] })
  await refused(await overreach(space, guest, proof, { pol: [] }))
})

await check('/store/ad does not prove /store/add', async () => {
  const [space, guest] = [await newKey(), await newKey()]
  const proof = await delegated(space, guest, { cmd: '/store/ad' })
  await refused(await overreach(space, guest, proof, {}))
})

await check('strangers are refused', async () => {
  const [space, friend, guest] = [await newKey(), await newKey(), await newKey()]
  const proof = await delegated(friend, guest, {}) // about a friend's space
  await refused(await overreach(space, guest, proof, { iss: space.did, sub: space.did }))
})

await check('another audience is refused', async () => {
  const other = await newKey()
  const terms = { ...own(await newKey(), wanted(await randomCAR(100))), aud: other.did }
  await refused(await add.invoke(terms))
})

await check('the expired are refused', async () => {
  const invocation = await add.invoke({ ...own(await newKey(), wanted(await randomCAR(100))), ttl: 1 })
  await nextSecond()
  await nextSecond()
  await nextSecond()
  await refused(invocation)
})

await check('what cannot be read is refused', async () => {
  const cut = new Uint8Array([0x82, 1]) // a list of two, and one of them
  const { status, error } = await post(cut)
  assert.equal(status, 400)
  assert.equal(error.code, 'SERVER_ERROR')
})

await check('/store/get, list, remove', async () => {
  const [space, car] = [await newKey(), await randomCAR(1_000)]
  const { link, size } = wanted(car)
  await upload(space, car)
  await send(await add.invoke(own(space, { link, size }))) // the service looks, and finds it
  const found = await send(await get.invoke(own(space, { link })))
  assert.equal(found.result.size, size)
  const listed = await send(await list.invoke(own(space, {})))
  assert.equal(listed.result.results.length, 1)
  const removed = await send(await remove.invoke(own(space, { link })))
  assert.ok(removed.result)
  const gone = await send(await get.invoke(own(space, { link })))
  assert.equal(gone.error.code, 'StoreItemNotFound')
}, { optional: true })

async function delegated(space, guest, { cmd = '/store/add', pol = [] }) {
  return await Delegation.create({ iss: space, aud: guest.did, sub: space.did, cmd, pol, exp: null })
}

/** An invocation that its proof does not allow: the client is shown other terms than were signed. */
async function overreach(space, guest, proof, terms) {
  const payload = { ...proof.envelope.payload, ...terms }
  const shown = { ...payload, cid: proof.cid, envelope: { payload }, validate: async () => true }
  const { bytes } = await Invocation.create({
    ...own(space, wanted(await randomCAR(100))),
    iss: guest,
    cmd: '/store/add',
    prf: [shown],
  })
  return { bytes, delegations: [proof] }
}

async function refused(invocation) {
  const { error } = await send(invocation)
  assert.ok(error, 'this should have been refused')
}
