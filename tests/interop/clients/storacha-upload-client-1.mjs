// @storacha/upload-client 1.4.2: space/blob/add, high level and low.
import * as client from 'storacha1'
import { blobAdd, blobRest } from '../scenarios/blob.mjs'
import { receipts } from '../scenarios/receipts.mjs'
import { uploads } from '../scenarios/uploads.mjs'

await blobAdd(client)
await blobRest(client)
await uploads(client)
await receipts('space/blob/add')
