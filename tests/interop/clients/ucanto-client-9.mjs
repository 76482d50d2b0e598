// @ucanto/client 9.0.2 alone: what the upload clients never do, and what must be refused.
import assert from 'node:assert/strict'
import { invoke } from '@ucanto/client'
import { delegate } from '@ucanto/core'
import { generate } from '@ucanto/principal/ed25519'
import { CAR } from '@ucanto/transport'
import { check } from '../checks.mjs'
import { newSpace, randomCAR } from '../input.mjs'
import { connection, endpoint, receiptByCID, service } from '../service.mjs'
import { receipts } from '../scenarios/receipts.mjs'

const seconds = () => Math.floor(Date.now() / 1000)

/** An invocation of store/add by the space itself, changed as told. */
async function storeAdd(space, { can = 'store/add', link, size = 10, ...changed } = {}) {
  return invoke({
    issuer: space.signer,
    audience: service,
    capability: { can, with: space.did, nb: { link: link ?? (await randomCAR(10)).link, size } },
    ...changed,
  })
}

/** The error of an invocation, and that it was refused at all. */
async function refused(invocation) {
  const { out } = await invocation.execute(connection)
  assert.ok(out.error, 'this should have been refused')
  return out.error
}

async function delegated(space, audience, { can = 'store/add', nb = {} } = {}) {
  const capabilities = [{ can, with: space.did, nb }]
  return await delegate({ issuer: space.signer, audience, capabilities, expiration: Infinity })
}

await check('two invocations, one message', async () => {
  const space = await newSpace()
  const both = [await storeAdd(space), await storeAdd(space)]
  const [one, other] = await connection.execute(...both)
  assert.equal(one.out.ok.status, 'upload')
  assert.equal(other.out.ok.status, 'upload')
  assert.notEqual(`${one.ran.link()}`, `${other.ran.link()}`)
})

await check('an error beside a success', async () => {
  const space = await newSpace()
  const unknown = await storeAdd(space, { can: 'store/nothing' })
  const [one, other] = await connection.execute(await storeAdd(space), unknown)
  assert.ok(one.out.ok)
  assert.equal(other.out.error.name, 'HandlerNotFound')
})

await check('a repeat gets the first receipt', async () => {
  const invocation = await (await storeAdd(await newSpace())).delegate()
  const [one] = await connection.execute(invocation)
  const [other] = await connection.execute(invocation)
  assert.equal(`${other.root.cid}`, `${one.root.cid}`)
})

await check('ten repeats at once, one receipt', async () => {
  const invocation = await (await storeAdd(await newSpace())).delegate()
  const repeats = Array.from({ length: 10 }, () => connection.execute(invocation))
  const roots = (await Promise.all(repeats)).map(([receipt]) => `${receipt.root.cid}`)
  assert.equal(new Set(roots).size, 1)
})

await check('a chain of three', async () => {
  const [space, friend, guest] = [await newSpace(), await generate(), await generate()]
  const first = await delegated(space, friend, { can: 'store/*' })
  const second = await delegate({
    issuer: friend,
    audience: guest,
    capabilities: [{ can: 'store/add', with: space.did }],
    proofs: [first],
  })
  const invocation = await storeAdd(space, { issuer: guest, proofs: [second] })
  assert.ok((await invocation.execute(connection)).out.ok)
})

await check('a delegated limit is kept', async () => {
  const [space, guest] = [await newSpace(), await generate()]
  const proofs = [await delegated(space, guest, { nb: { size: 100 } })]
  const within = await storeAdd(space, { issuer: guest, proofs, size: 100 })
  assert.ok((await within.execute(connection)).out.ok)
  const beyond = await storeAdd(space, { issuer: guest, proofs, size: 101 })
  assert.equal((await refused(beyond)).name, 'Unauthorized')
})

await check('strangers are refused', async () => {
  const invocation = await storeAdd(await newSpace(), { issuer: await generate() })
  assert.equal((await refused(invocation)).name, 'Unauthorized')
})

await check('the expired are refused', async () => {
  const invocation = await storeAdd(await newSpace(), { expiration: seconds() - 1 })
  assert.equal((await refused(invocation)).name, 'Unauthorized')
})

await check('another audience is refused', async () => {
  const invocation = await storeAdd(await newSpace(), { audience: await generate() })
  assert.equal((await refused(invocation)).name, 'InvalidAudience')
})

await check('a negative size is refused', async () => {
  const invocation = await storeAdd(await newSpace(), { size: -1 })
  assert.ok((await refused(invocation)).name)
})

for (const scope of ['issuer', 'stranger']) {
  await check(`ucan/revoke by the ${scope}`, async () => {
    const [space, stranger, guest] = [await newSpace(), await newSpace(), await generate()]
    const proof = await delegated(space, guest)
    const revoker = scope === 'issuer' ? space : stranger
    const revocation = invoke({
      issuer: revoker.signer,
      audience: service,
      capability: { can: 'ucan/revoke', with: revoker.did, nb: { ucan: proof.cid } },
      proofs: [proof],
    })
    const { out } = await revocation.execute(connection)
    assert.ok(out.ok.time > 1e12, 'the time is in milliseconds')
    const invocation = await storeAdd(space, { issuer: guest, proofs: [proof] })
    if (scope === 'issuer') {
      assert.match((await refused(invocation)).message, /revoked/)
    } else {
      assert.ok((await invocation.execute(connection)).out.ok)
    }
  })
}

await check('what is revoked must come along', async () => {
  const [space, guest] = [await newSpace(), await generate()]
  const proof = await delegated(space, guest)
  const revocation = invoke({
    issuer: space.signer,
    audience: service,
    capability: { can: 'ucan/revoke', with: space.did, nb: { ucan: proof.cid } },
  })
  assert.equal((await refused(revocation)).name, 'UCANNotFound')
})

await check('415, 406 and 400', async () => {
  const car = { 'content-type': CAR.contentType, accept: CAR.contentType }
  const status = async (headers) =>
    (await fetch(endpoint, { method: 'POST', headers, body: new Uint8Array(100) })).status
  assert.equal(await status({ ...car, 'content-type': 'text/html' }), 415)
  assert.equal(await status({ ...car, accept: 'text/html' }), 406)
  assert.equal(await status(car), 400)
})

await check('GET /receipt of the unknown', async () => {
  const { link } = await randomCAR(10)
  assert.equal(await receiptByCID(link), null)
})

await receipts('store/add')
