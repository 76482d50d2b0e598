// Whole files and CARs: shards are stored one by one, then the upload is registered.
import assert from 'node:assert/strict'
import { check, nextSecond, object } from '../checks.mjs'
import { agentOf, newSpace, randomBytes, randomCAR } from '../input.mjs'
import { connection, receiptsOf } from '../service.mjs'

const FILE_BYTES = 2_500_000 // three blocks of 1 MiB, so at least two shards
const SHARD_BYTES = 1_300_000

/** `call(conf, input, options)` stores something; gives its root and shards, and lists the upload. */
async function uploaded({ Upload }, call, input, options) {
  const conf = await agentOf(await newSpace(), 'store/*', 'space/*', 'upload/*')
  const shards = []
  const onShardStored = ({ cid, size }) => shards.push({ cid, size })
  const root = await call(conf, input, { connection, onShardStored, ...options })
  const { results } = await Upload.list(conf, { connection })
  assert.deepEqual(results.map((upload) => `${upload.root}`), [`${root}`])
  const links = shards.map(({ cid }) => `${cid}`).sort()
  assert.deepEqual(results[0].shards.map(String).sort(), links)
  const registered = (await receiptsOf('upload/add')).at(-1)
  assert.equal(`${registered.receipt.out.ok.root}`, `${root}`)
  return { conf, root, stored: shards.map(({ cid, size }) => object(cid, size)) }
}

export async function uploads(client) {
  const { uploadFile, uploadCAR, Upload } = client
  const plain = { pieceHasher: null }

  await check('uploadFile', async () => {
    const file = new Blob([randomBytes(FILE_BYTES)])
    const options = { ...plain, shardSize: SHARD_BYTES }
    const { stored } = await uploaded(client, uploadFile, file, options)
    assert.ok(stored.length >= 2)
    return stored
  })

  await check('uploadCAR, upload/remove', async () => {
    const car = await randomCAR(50_000)
    const { conf, root, stored } = await uploaded(client, uploadCAR, new Blob([car.bytes]), plain)
    assert.equal(`${root}`, `${car.root}`)
    await Upload.remove(conf, root, { connection })
    await nextSecond() // within one, the list would be the very invocation of before
    assert.deepEqual((await Upload.list(conf, { connection })).results, [])
    return stored
  })

  await check('uploadFile with filecoin/offer', async () => {
    const { stored } = await uploaded(client, uploadFile, new Blob([randomBytes(1_000)]), {})
    return stored
  }, { optional: true })
}
