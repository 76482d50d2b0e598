// What clients upload, and in whose name.
import { webcrypto } from 'node:crypto'
import { CAR, delegate } from '@ucanto/core'
import { generate } from '@ucanto/principal/ed25519'
import { CID } from 'multiformats/cid'
import { sha256 } from 'multiformats/hashes/sha2'
import { service } from './service.mjs'

const RAW = 0x55

export function randomBytes(size) {
  const bytes = new Uint8Array(size)
  for (let start = 0; start < size; start += 65536) {
    webcrypto.getRandomValues(bytes.subarray(start, start + 65536))
  }
  return bytes
}

/** A CAR of one random block, its root: `{bytes, link, root}`. */
export async function randomCAR(size) {
  const data = randomBytes(size)
  const root = CID.createV1(RAW, await sha256.digest(data))
  const block = { cid: root, bytes: data }
  const bytes = CAR.encode({ roots: [block] })
  return { bytes, link: CID.createV1(CAR.code, await sha256.digest(bytes)), root }
}

/** A random blob: `{bytes, digest, link}`. */
export async function randomBlob(size) {
  const bytes = randomBytes(size)
  const digest = await sha256.digest(bytes)
  return { bytes, digest, link: CID.createV1(RAW, digest) }
}

/** A space of its own, and the owner's configuration for a client's calls. */
export async function newSpace() {
  const signer = await generate()
  const owner = { issuer: signer, with: signer.did(), proofs: [], audience: service }
  return { signer, did: signer.did(), owner }
}

/** The configuration of an agent to whom the space has delegated these abilities. */
export async function agentOf(space, ...abilities) {
  const issuer = await generate()
  const proof = await delegate({
    issuer: space.signer,
    audience: issuer,
    capabilities: abilities.map((can) => ({ can, with: space.did })),
    expiration: Infinity,
  })
  return { issuer, with: space.did, proofs: [proof], audience: service }
}
