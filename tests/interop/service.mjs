// The service under test: `--endpoint URL --did DID`, and what its clients are given to reach it.
//
// `connection` is @ucanto/client's own. Its channel keeps what went over it, so that a check can look
// at receipts which a client does not show.
import { parseArgs } from 'node:util'
import { connect } from '@ucanto/client'
import { DID, Receipt, isDelegation } from '@ucanto/core'
import { Verifier } from '@ucanto/principal/ed25519'
import { CAR, HTTP } from '@ucanto/transport'

const { values } = parseArgs({
  options: {
    endpoint: { type: 'string' },
    did: { type: 'string' },
    key: { type: 'string' }, // the did:key that signs, where `did` is another method
    quota: { type: 'string' }, // bytes that a new space may use; without it nothing is refused
    ucan1: { type: 'string' }, // where UCAN 1.0 is spoken, if elsewhere
  },
})
if (!values.endpoint || !values.did) {
  console.error('usage: CLIENT.mjs --endpoint URL --did DID [--key DID] [--quota BYTES]')
  process.exit(2)
}

export const endpoint = new URL(values.endpoint)
export const ucan1 = new URL(values.ucan1 ?? values.endpoint)
export const service = DID.parse(values.did)
export const quota = values.quota === undefined ? null : Number(values.quota)
export const receiptsEndpoint = new URL('/receipt/', endpoint)

const exchanges = []
const channel = HTTP.open({ url: endpoint, method: 'POST' })
const request = channel.request.bind(channel)
channel.request = async (sent) => {
  const reply = await request(sent)
  exchanges.push({ sent, reply })
  return reply
}
export const connection = connect({ id: service, codec: CAR.outbound, channel })

/** The receipts so far of one ability, each invocation once: `{invocation, capability, receipt}`. */
export async function receiptsOf(can) {
  const found = new Map()
  for (const { invocations, receipts } of await decoded()) {
    for (const invocation of invocations) {
      const [capability] = invocation.capabilities
      const receipt = receipts.get(`${invocation.cid}`)
      if (capability.can === can && receipt) {
        found.set(`${invocation.cid}`, { invocation, capability, receipt })
      }
    }
  }
  return [...found.values()]
}

/** Every receipt so far, also those inside a `ucan/conclude`. */
export async function* everyReceipt() {
  for (const { receipts } of await decoded()) {
    for (const receipt of receipts.values()) {
      yield receipt
      yield* concluded(receipt)
    }
  }
}

/** The receipts that the `ucan/conclude` forks of a receipt bring along. */
export function* concluded(receipt) {
  const blocks = new Map([...receipt.iterateIPLDBlocks()].map((block) => [`${block.cid}`, block]))
  for (const fork of receipt.fx.fork) {
    if (isDelegation(fork) && fork.capabilities[0].can === 'ucan/conclude') {
      yield Receipt.view({ root: fork.capabilities[0].nb.receipt, blocks })
    }
  }
}

/** Whether the issuer that a receipt names has signed it. */
export async function isSigned(receipt) {
  const did = receipt.issuer.did()
  const key = did === values.did ? (values.key ?? did) : did
  return 'ok' in (await receipt.verifySignature(Verifier.parse(key)))
}

/** `GET /receipt/<CID>`: the receipt, or null where the service has none. */
export async function receiptByCID(cid) {
  const reply = await fetch(new URL(`${cid}`, receiptsEndpoint))
  if (reply.status === 404) {
    return null
  }
  const message = await CAR.request.decode({ headers: {}, body: await bytesOf(reply) })
  return message.receipts.get(`${cid}`)
}

async function decoded() {
  const both = exchanges.map(async ({ sent, reply }) => ({
    invocations: (await CAR.request.decode(sent)).invocations,
    receipts: (await CAR.response.decode(reply)).receipts,
  }))
  return await Promise.all(both)
}

async function bytesOf(reply) {
  return new Uint8Array(await reply.arrayBuffer())
}
