// @web3-storage/w3up-client 12.5.2: a space, its agent and its proofs, through the client's own doors.
import assert from 'node:assert/strict'
import { generate } from '@ucanto/principal/ed25519'
import { create } from 'w3up12'
import { StoreMemory } from 'w3up12/stores/memory'
import { check, nextSecond, object, refusal } from '../checks.mjs'
import { randomBytes, randomCAR } from '../input.mjs'
import { connection, isSigned, receiptsEndpoint, receiptsOf } from '../service.mjs'
import { receipts } from '../scenarios/receipts.mjs'

const PLAIN = { pieceHasher: null }

async function newClient() {
  return await create({
    principal: await generate(),
    store: new StoreMemory(),
    serviceConf: { access: connection, upload: connection, filecoin: connection },
    receiptsEndpoint,
  })
}

async function clientWithSpace() {
  const client = await newClient()
  const space = await client.createSpace('interop')
  await client.addSpace(await space.createAuthorization(client.agent))
  await client.setCurrentSpace(space.did())
  return client
}

await check('uploadCAR', async () => {
  const client = await clientWithSpace()
  const car = await randomCAR(50_000)
  const stored = []
  const onShardStored = ({ cid, size }) => stored.push(object(cid, size))
  const root = await client.uploadCAR(new Blob([car.bytes]), { ...PLAIN, onShardStored })
  assert.equal(`${root}`, `${car.root}`)
  const { results } = await client.capability.upload.list()
  assert.deepEqual(results.map((upload) => `${upload.root}`), [`${root}`])
  return stored
})

await check('uploadFile', async () => {
  const client = await clientWithSpace()
  const stored = []
  const onShardStored = ({ cid, size }) => stored.push(object(cid, size))
  await client.uploadFile(new Blob([randomBytes(30_000)]), { ...PLAIN, onShardStored })
  const { results } = await client.capability.store.list()
  assert.deepEqual(results.map(({ link, size }) => object(link, size)), stored)
  return stored
})

await check('store/add, get, remove', async () => {
  const { capability } = await clientWithSpace()
  const car = await randomCAR(1_000)
  await capability.store.add(car.bytes)
  assert.equal((await capability.store.get(car.link)).size, car.bytes.length)
  await capability.store.remove(car.link)
  const { results } = await capability.store.list()
  assert.deepEqual(results, [])
})

await check('upload/get, upload/remove', async () => {
  const client = await clientWithSpace()
  const root = await client.uploadFile(new Blob([randomBytes(1_000)]), PLAIN)
  const { shards } = await client.capability.upload.get(root)
  assert.equal(shards.length, 1)
  await client.remove(root)
  assert.deepEqual((await client.capability.upload.list()).results, [])
})

await check('a delegation, revoked', async () => {
  const [owner, guest] = [await clientWithSpace(), await newClient()]
  const delegation = await owner.createDelegation(guest.agent, ['store/*'])
  await guest.addSpace(delegation)
  await guest.setCurrentSpace(owner.currentSpace().did())
  const [one, other] = [await randomCAR(1_000), await randomCAR(1_000)]
  await guest.capability.store.add(one.bytes)
  const { ok } = await owner.revokeDelegation(delegation.cid)
  assert.ok(ok.time)
  const [, cause] = await refusal(guest.capability.store.add(other.bytes))
  assert.equal(cause.name, 'Unauthorized')
  assert.match(cause.message, /revoked/)
  return [object(one.link, one.bytes.length)]
})

await check('getReceipt', async () => {
  const client = await newClient()
  const { invocation, receipt } = (await receiptsOf('store/add'))[0]
  const found = await client.getReceipt(invocation.cid)
  assert.equal(`${found.root.cid}`, `${receipt.root.cid}`)
  assert.ok(await isSigned(found))
})

await receipts('upload/add')
