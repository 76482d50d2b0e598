// store/add and its siblings, through the `Store` that every @web3-storage/upload-client has.
import assert from 'node:assert/strict'
import { check, nextSecond, object, refusal } from '../checks.mjs'
import { agentOf, newSpace, randomCAR } from '../input.mjs'
import { connection, quota, receiptsOf } from '../service.mjs'

const options = () => ({ connection })

/** What the service has answered about this CAR, oldest first. */
async function answersAbout(link) {
  const all = await receiptsOf('store/add')
  const about = all.filter(({ capability }) => `${capability.nb.link}` === `${link}`)
  return about.map(({ receipt }) => receipt.out.ok)
}

export async function storeAdd({ Store }) {
  await check('store/add uploads', async () => {
    const conf = await agentOf(await newSpace(), 'store/*')
    const car = await randomCAR(10_000)
    const link = await Store.add(conf, car.bytes, options())
    assert.equal(`${link}`, `${car.link}`)
    const [answer] = await answersAbout(link)
    assert.equal(answer.status, 'upload')
    assert.equal(answer.allocated, car.bytes.length)
    assert.equal(answer.with, conf.with)
    return [object(link, car.bytes.length)]
  })

  await check('store/add again is done', async () => {
    const { owner } = await newSpace()
    const car = await randomCAR(5_000)
    await Store.add(owner, car.bytes, options())
    await nextSecond()
    await Store.add(owner, car.bytes, options())
    const [first, second] = await answersAbout(car.link)
    assert.equal(first.status, 'upload')
    assert.equal(second.status, 'done')
    assert.equal(second.allocated, 0)
    return [object(car.link, car.bytes.length)]
  })

  await check('store/add in one second', async () => {
    const { owner } = await newSpace()
    const car = await randomCAR(5_000)
    await nextSecond() // the second call repeats the very invocation of the first
    await Store.add(owner, car.bytes, options())
    await Store.add(owner, car.bytes, options())
    assert.equal((await answersAbout(car.link))[0].allocated, car.bytes.length)
    return [object(car.link, car.bytes.length)]
  })

  await check('store/add by another space', async () => {
    const [one, other] = [await newSpace(), await newSpace()]
    const car = await randomCAR(5_000)
    await Store.add(one.owner, car.bytes, options())
    await Store.add(other.owner, car.bytes, options())
    const [first, second] = await answersAbout(car.link)
    assert.equal(first.allocated, car.bytes.length)
    assert.equal(second.allocated, car.bytes.length)
    return [object(car.link, car.bytes.length)]
  })

  await check('ten store/add at once', async () => {
    const space = await newSpace()
    const car = await randomCAR(20_000)
    const agents = await Promise.all(Array.from({ length: 10 }, () => agentOf(space, 'store/add')))
    await Promise.all(agents.map((conf) => Store.add(conf, car.bytes, options())))
    const answers = await answersAbout(car.link)
    assert.equal(answers.length, 10)
    assert.equal(sum(answers.map(({ allocated }) => allocated)), car.bytes.length)
    return [object(car.link, car.bytes.length)]
  })

  const unless = quota ? null : 'the service has no quota'
  await check('store/add keeps the quota', () => fillQuota(Store), { unless })
}

/** Two CARs of which the quota takes one. (Room comes back when no signed URL lives any more.) */
async function fillQuota(Store) {
  const { owner } = await newSpace()
  const [one, other] = [await randomCAR(quota * 0.6), await randomCAR(quota * 0.6)]
  await Store.add(owner, one.bytes, options())
  const [, cause] = await refusal(Store.add(owner, other.bytes, options()))
  assert.equal(cause.name, 'InsufficientStorage')
  return [object(one.link, one.bytes.length)]
}

export async function storeRest({ Store }) {
  await check('store/get', async () => {
    const { owner } = await newSpace()
    const car = await randomCAR(1_000)
    await Store.add(owner, car.bytes, options())
    const item = await Store.get(owner, car.link, options())
    assert.equal(`${item.link}`, `${car.link}`)
    assert.equal(item.size, car.bytes.length)
    const unknown = await randomCAR(10)
    const [, cause] = await refusal(Store.get(owner, unknown.link, options()))
    assert.equal(cause.name, 'StoreItemNotFound')
  }, { unless: Store.get ? null : 'this client has no Store.get' })

  await check('store/list', async () => {
    const { owner } = await newSpace()
    const cars = await Promise.all([1_000, 2_000, 3_000].map(randomCAR))
    for (const { bytes } of cars) {
      await Store.add(owner, bytes, options())
    }
    const first = await Store.list(owner, { ...options(), size: 2 })
    assert.equal(first.results.length, 2)
    const rest = await Store.list(owner, { ...options(), size: 2, cursor: first.cursor })
    const listed = [...first.results, ...rest.results].map(({ link, size }) => `${link} ${size}`)
    assert.deepEqual(listed.sort(), cars.map(({ link, bytes }) => `${link} ${bytes.length}`).sort())
  })

  await check('store/remove', async () => {
    const { owner } = await newSpace()
    const car = await randomCAR(1_000)
    await Store.add(owner, car.bytes, options())
    await Store.remove(owner, car.link, options())
    assert.deepEqual((await Store.list(owner, options())).results, [])
    await nextSecond()
    const [, cause] = await refusal(Store.remove(owner, car.link, options()))
    assert.equal(cause.name, 'StoreItemNotFound')
  })
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0)
}
