// @web3-storage/upload-client 9.4.1: store/add, high level and low.
import * as client from 'uc9'
import { receipts } from '../scenarios/receipts.mjs'
import { storeAdd, storeRest } from '../scenarios/store.mjs'
import { uploads } from '../scenarios/uploads.mjs'

await storeAdd(client)
await storeRest(client)
await uploads(client)
await receipts('store/add')
