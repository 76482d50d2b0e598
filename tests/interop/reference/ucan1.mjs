// A stand-in to try clients/iso-ucan-0.mjs on: iso-ucan's own server, over a few lines of storage.
//
//     node tests/interop/reference/ucan1.mjs
//
// Prints {"endpoint", "did"} when ready. It takes a bare invocation, or a container (UCAN 1.0, raw)
// with the proofs beside it. It has no quota, and it reads commands as iso-ucan does: by prefix.
import http from 'node:http'
import { decode } from '@ipld/dag-cbor'
import { MemoryDriver } from 'iso-kv/drivers/memory.js'
import { EdDSASigner } from 'iso-signatures/signers/eddsa.js'
import * as EdDSA from 'iso-signatures/verifiers/eddsa.js'
import { Resolver } from 'iso-signatures/verifiers/resolver.js'
import { Delegation } from 'iso-ucan/delegation'
import * as Envelope from 'iso-ucan/envelope'
import { defineCommand, defineServer } from 'iso-ucan/rpc'
import { Store } from 'iso-ucan/store'
import { z } from 'zod'

const RAW_CONTAINER = 0x40
const verifierResolver = new Resolver(EdDSA.verifier)
const signer = await EdDSASigner.generate()
const store = new Store(new MemoryDriver())
const spaces = new Map() // "space link" → size
const bucket = new Map() // path → bytes
const answers = new Map() // invocation CID → answer
let origin

const item = z.object({ link: z.string(), size: z.number().optional() })
const command = (cmd, args) => defineCommand({ cmd, args, receipt: z.looseObject({}) })
const commands = {
  add: command('/store/add', item),
  get: command('/store/get', item),
  list: command('/store/list', z.object({})),
  remove: command('/store/remove', item),
}
const handlers = {
  '/store/add': (space, { link, size }) => {
    const known = spaces.has(`${space} ${link}`)
    spaces.set(`${space} ${link}`, size)
    const result = { allocated: known ? 0 : size, with: space, link }
    return bucket.has(`/bucket/${link}`)
      ? { result: { ...result, status: 'done' } }
      : { result: { ...result, status: 'upload', url: `${origin}/bucket/${link}`, headers: {} } }
  },
  '/store/get': (space, { link }) => found(space, link, (size) => ({ link, size })),
  '/store/list': (space) => ({
    result: { results: [...spaces.keys()].filter((key) => key.startsWith(`${space} `)) },
  }),
  '/store/remove': (space, { link }) =>
    found(space, link, (size) => spaces.delete(`${space} ${link}`) && { size }),
}
const respond = defineServer(commands, {
  signer,
  store,
  verifierResolver,
  handlers: Object.fromEntries(Object.entries(handlers).map(([cmd, run]) => [cmd, once(run)])),
})

const server = http.createServer(async (request, response) => {
  const body = Buffer.concat(await chunks(request))
  if (request.method === 'PUT') {
    bucket.set(request.url, body)
    response.writeHead(200).end()
  } else {
    const reply = await respond(new Request(origin, { method: 'POST', body: await unpacked(body) }))
    response.writeHead(reply.status).end(Buffer.from(await reply.arrayBuffer()))
  }
})
server.listen(0, '127.0.0.1', () => {
  origin = `http://127.0.0.1:${server.address().port}`
  console.log(JSON.stringify({ endpoint: origin, did: signer.did }))
})
process.on('SIGTERM', () => process.exit(0))

/** The invocation in a container, whose delegations are kept; any other body as it is. */
async function unpacked(body) {
  if (body[0] !== RAW_CONTAINER) {
    return body
  }
  let invocation = null
  for (const bytes of decode(body.subarray(1))['ctn-v1']) {
    if (Envelope.decode({ envelope: bytes }).spec === 'inv') {
      invocation = bytes
    } else {
      await store.add([await Delegation.from({ bytes, verifierResolver })])
    }
  }
  return invocation
}

function once(run) {
  return ({ args, invocation }) => {
    const key = `${invocation.cid}`
    if (!answers.has(key)) {
      answers.set(key, { cid: invocation.cid, ...run(invocation.payload.sub, args) })
    }
    return answers.get(key)
  }
}

function found(space, link, give) {
  const size = spaces.get(`${space} ${link}`)
  return size === undefined
    ? { error: { code: 'StoreItemNotFound', message: `${link} is not in ${space}` } }
    : { result: give(size) }
}

async function chunks(request) {
  const all = []
  for await (const chunk of request) {
    all.push(chunk)
  }
  return all
}
