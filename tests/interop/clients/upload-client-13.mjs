// @web3-storage/upload-client 13.2.1: store/add, high level and low.
import * as client from 'uc13'
import { receipts } from '../scenarios/receipts.mjs'
import { storeAdd, storeRest } from '../scenarios/store.mjs'
import { uploads } from '../scenarios/uploads.mjs'

await storeAdd(client)
await storeRest(client)
await uploads(client)
await receipts('store/add')
