// @web3-storage/upload-client 17.1.4: space/blob/add, high level and low, and store/add below it.
import * as client from 'uc17'
import { blobAdd, blobRest } from '../scenarios/blob.mjs'
import { receipts } from '../scenarios/receipts.mjs'
import { storeAdd, storeRest } from '../scenarios/store.mjs'
import { uploads } from '../scenarios/uploads.mjs'

await blobAdd(client)
await blobRest(client)
await uploads(client)
await storeAdd(client)
await storeRest(client)
await receipts('space/blob/add')
