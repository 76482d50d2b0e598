// space/blob/add and its siblings, through the `Blob` of the later clients.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { Delegation } from '@ucanto/core'
import { check, nextSecond, object, refusal } from '../checks.mjs'
import { agentOf, newSpace, randomBlob } from '../input.mjs'
import { concluded, connection, quota, receiptsOf } from '../service.mjs'

const options = (more) => ({ connection, ...more })

/** What the service has allocated for this blob, by add, oldest first. */
async function allocations(digest) {
  const found = []
  for (const { capability, receipt } of await receiptsOf('space/blob/add')) {
    if (same(capability.nb.blob.digest, digest.bytes)) {
      const tasks = receipt.fx.fork.filter((fork) => fork.capabilities[0].can.endsWith('/allocate'))
      const cids = tasks.map(({ cid }) => `${cid}`)
      const [allocation] = [...concluded(receipt)].filter(({ ran }) => cids.includes(ranOf(ran)))
      found.push(allocation.out.ok)
    }
  }
  return found
}

export async function blobAdd({ Blob: blobs }) {
  await check('space/blob/add uploads', async () => {
    const conf = await agentOf(await newSpace(), 'space/*')
    const blob = await randomBlob(10_000)
    const { site } = await blobs.add(conf, blob.digest, blob.bytes, options())
    assert.ok(Delegation.isDelegation(site))
    const [allocation] = await allocations(blob.digest)
    assert.equal(allocation.size, blob.bytes.length)
    assert.ok(allocation.address)
    await locates(site, blob)
    return [object(blob.link, blob.bytes.length)]
  })

  await check('space/blob/add again is done', async () => {
    const { owner } = await newSpace()
    const blob = await randomBlob(5_000)
    await blobs.add(owner, blob.digest, blob.bytes, options({ nonce: 'first' }))
    const { site } = await blobs.add(owner, blob.digest, blob.bytes, options({ nonce: 'second' }))
    const [first, second] = await allocations(blob.digest)
    assert.equal(first.size, blob.bytes.length)
    assert.equal(second.size, 0)
    assert.equal(second.address, undefined)
    await locates(site, blob)
    return [object(blob.link, blob.bytes.length)]
  })

  await check('space/blob/add in one second', async () => {
    const { owner } = await newSpace()
    const blob = await randomBlob(5_000)
    await nextSecond() // the second call repeats the very invocation of the first
    await blobs.add(owner, blob.digest, blob.bytes, options())
    await blobs.add(owner, blob.digest, blob.bytes, options())
    return [object(blob.link, blob.bytes.length)]
  })

  await check('ten space/blob/add at once', async () => {
    const { owner } = await newSpace()
    const blob = await randomBlob(20_000)
    const nonces = Array.from({ length: 10 }, (_, number) => `call ${number}`)
    await Promise.all(
      nonces.map((nonce) => blobs.add(owner, blob.digest, blob.bytes, options({ nonce })))
    )
    const sizes = (await allocations(blob.digest)).map(({ size }) => size)
    assert.equal(sizes.length, 10)
    assert.equal(sizes.reduce((total, size) => total + size, 0), blob.bytes.length)
    return [object(blob.link, blob.bytes.length)]
  })

  const unless = quota ? null : 'the service has no quota'
  await check('space/blob/add keeps the quota', async () => {
    const { owner } = await newSpace()
    const [one, other] = [await randomBlob(quota * 0.6), await randomBlob(quota * 0.6)]
    await blobs.add(owner, one.digest, one.bytes, options())
    const [, cause] = await refusal(blobs.add(owner, other.digest, other.bytes, options()))
    assert.equal(cause.name, 'InsufficientStorage')
    return [object(one.link, one.bytes.length)]
  }, { unless })
}

export async function blobRest({ Blob: blobs }) {
  await check('space/blob/get', async () => {
    const { owner, blob } = await stored(blobs)
    const { ok } = await blobs.get(owner, blob.digest, options())
    assert.ok(same(ok.blob.digest, blob.digest.bytes))
    assert.equal(ok.blob.size, blob.bytes.length)
  }, { optional: true })

  await check('space/blob/list', async () => {
    const { owner, blob } = await stored(blobs)
    const { results } = await blobs.list(owner, options())
    assert.equal(results.length, 1)
    assert.ok(same(results[0].blob.digest, blob.digest.bytes))
  }, { optional: true })

  await check('space/blob/remove', async () => {
    const { owner, blob } = await stored(blobs)
    const { ok } = await blobs.remove(owner, blob.digest, options())
    assert.equal(ok.size, blob.bytes.length)
  }, { optional: true })
}

async function stored(blobs) {
  const { owner } = await newSpace()
  const blob = await randomBlob(1_000)
  await blobs.add(owner, blob.digest, blob.bytes, options())
  return { owner, blob }
}

/** The claim names this blob and a place; who may read there finds its bytes. */
async function locates(site, { bytes, digest }) {
  const [{ can, nb }] = site.capabilities
  assert.equal(can, 'assert/location')
  assert.ok(same(nb.content.digest ?? nb.content.multihash.bytes, digest.bytes))
  const reply = await fetch(nb.location[0])
  const body = new Uint8Array(await reply.arrayBuffer())
  if (reply.status !== 401 && reply.status !== 403) {
    assert.equal(reply.status, 200)
    assert.equal(sha256(body), sha256(bytes))
  }
}

function ranOf(ran) {
  return `${ran.cid ?? ran}`
}

function same(one, other) {
  return Buffer.compare(one, other) === 0
}

function sha256(bytes) {
  return createHash('sha256').update(bytes).digest('hex')
}
