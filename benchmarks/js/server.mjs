// The reference: `store/add` and its siblings as @web3-storage/upload-api runs them, in memory.
//
//     npm ci --ignore-scripts --prefix benchmarks/js
//     node benchmarks/js/server.mjs --port 0
//
// The context is the one in which the package tests itself: tables in memory, a bucket on a port of
// its own, and for each store/add an allocation, a look into the bucket and a signed URL. What is
// added here: HTTP, GET /receipt/<CID>, that every space counts as provisioned, and, if asked for, a
// quota: --quota BYTES is what each space may use.
//
// Prints {"endpoint", "did", "key", "quota"?} when ready. GET /cpu and SIGTERM tell what this process has used:
// {"user_us", "system_us", "requests"}. A did:web signs with `key`, which is a did:key.
import http from 'node:http'
import { parseArgs } from 'node:util'
import { Message, parseLink } from '@ucanto/core'
import * as CAR from '@ucanto/transport/car'
import { createContext, cleanupContext } from '@web3-storage/upload-api/test/context'
import { createServer } from '@web3-storage/upload-api'

const { values: options } = parseArgs({
  options: { port: { type: 'string', default: '0' }, quota: { type: 'string' } },
})
const quota = options.quota && Number(options.quota)

const context = await createContext({ requirePaymentPlan: false, http: { createServer: local } })
context.provisionsStorage.hasStorageProvider = async () => ({ ok: true })
outlast(context.claimsService)
if (quota) {
  limit([context.storeTable, context.allocationsStorage], quota)
}
const agent = createServer(context)
let requests = 0

const server = http.createServer(async (request, response) => {
  try {
    const { status = 200, headers, body } = await answer(request)
    response.writeHead(status, headers).end(body)
  } catch (error) {
    response.writeHead(500).end(String(error))
  }
})
server.listen(Number(options.port), '127.0.0.1', () => {
  const endpoint = `http://127.0.0.1:${server.address().port}/`
  print({ endpoint, did: context.id.did(), key: context.id.toDIDKey(), quota })
})

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, async () => {
    print(used())
    server.close()
    server.closeAllConnections()
    await cleanupContext(context)
    process.exit(0)
  })
}

async function answer(request) {
  if (request.method === 'POST') {
    requests += 1
    return await agent.request({ headers: request.headers, body: await read(request) })
  }
  const [, resource, cid] = request.url.split('/')
  if (resource === 'cpu') {
    return json(used())
  }
  if (resource === 'receipt' && cid) {
    return await receipt(cid)
  }
  return { status: 404 }
}

async function receipt(cid) {
  const found = await context.agentStore.receipts.get(parseLink(cid))
  if (found.error) {
    return { status: 404 }
  }
  return CAR.response.encode(await Message.build({ receipts: [found.ok] }))
}

async function read(request) {
  const chunks = []
  for await (const chunk of request) {
    chunks.push(chunk)
  }
  return new Uint8Array(Buffer.concat(chunks))
}

function used() {
  const { user, system } = process.cpuUsage()
  return { user_us: user, system_us: system, requests }
}

function json(value) {
  return { headers: { 'content-type': 'application/json' }, body: JSON.stringify(value) }
}

function print(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

// The context's own permission to publish claims ends 30 seconds after it was made.
function outlast({ invocationConfig, connection }) {
  Object.assign(invocationConfig, { issuer: connection.id, proofs: [] })
}

// Every insert into one of the tables counts against the space, until it is removed.
function limit(tables, bytes) {
  const used = new Map()
  const count = (space, size) => used.set(space, (used.get(space) ?? 0) + size)
  for (const table of tables) {
    const [insert, remove] = [table.insert.bind(table), table.remove.bind(table)]
    table.insert = async (item) => {
      const size = item.size ?? item.blob.size
      if ((used.get(item.space) ?? 0) + size > bytes) {
        const message = `${item.space} may use ${bytes} bytes`
        return { error: { name: 'InsufficientStorage', message } }
      }
      const inserted = await insert(item)
      if (inserted.ok) {
        count(item.space, size)
      }
      return inserted
    }
    table.remove = async (space, ...which) => {
      const removed = await remove(space, ...which)
      if (removed.ok) {
        count(space, -removed.ok.size)
      }
      return removed
    }
  }
}

// The package's servers listen wherever they can be reached; here on this machine only.
function local(handler) {
  const server = http.createServer(handler)
  const listen = server.listen.bind(server)
  server.listen = (ready) => listen(0, '127.0.0.1', ready)
  return server
}
