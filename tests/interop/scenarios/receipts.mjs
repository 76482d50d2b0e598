// Last of all: the receipts that a client got on its way, whether it looked at them or not.
import assert from 'node:assert/strict'
import { check } from '../checks.mjs'
import { everyReceipt, isSigned, receiptByCID, receiptsOf, service } from '../service.mjs'

export async function receipts(can) {
  await check('receipts are signed', async () => {
    const issuers = new Set()
    for await (const receipt of everyReceipt()) {
      assert.ok(await isSigned(receipt), `${receipt.ran.cid ?? receipt.ran} is not signed`)
      issuers.add(receipt.issuer.did())
    }
    assert.ok(issuers.has(service.did()))
  })

  await check('GET /receipt/<CID>', async () => {
    const { invocation, receipt } = (await receiptsOf(can)).at(-1)
    const found = await receiptByCID(invocation.cid)
    assert.equal(`${found.root.cid}`, `${receipt.root.cid}`)
    assert.ok(await isSigned(found))
    assert.equal(await receiptByCID(receipt.root.cid), null) // a receipt is not an invocation
  })
}
