// Checks that report themselves: one line of JSON each on stdout, for people and for run.py.
//
//     {"check", "status": "ok" | "failed" | "absent" | "skipped", "ms", "error"?, "stored"?}
//
// `absent`: an optional ability that the service does not have. `stored`: what a reader of the bucket
// should now find there, [{"link", "size"}].

/** Run `body` and report. It returns what should now be in the bucket, or nothing. */
export async function check(name, body, { optional = false, unless = null } = {}) {
  if (unless) {
    return report({ check: name, status: 'skipped', error: unless })
  }
  const started = performance.now()
  const took = () => Math.round(performance.now() - started)
  try {
    const stored = await body()
    report({ check: name, status: 'ok', ms: took(), stored: stored ?? [] })
  } catch (error) {
    if (optional && causes(error).some(({ name }) => name === 'HandlerNotFound')) {
      return report({ check: name, status: 'absent', ms: took() })
    }
    process.exitCode = 1
    report({ check: name, status: 'failed', ms: took(), error: described(error) })
  }
}

/** What an object in the bucket is known by. */
export const object = (link, size) => ({ link: `${link}`, size })

/** The error that a promise ends with, and all of its causes; raises if it ends well. */
export async function refusal(promise) {
  try {
    await promise
  } catch (error) {
    return causes(error)
  }
  throw new Error('this should have been refused')
}

/** Wait for another second: within one, equal invocations have the same CID. */
export async function nextSecond() {
  await new Promise((resolve) => setTimeout(resolve, 1020 - (Date.now() % 1000)))
}

function causes(error) {
  return error ? [error, ...causes(error.cause)] : []
}

function described(error) {
  return causes(error)
    .map(({ name, message }) => `${name}: ${String(message).split('\n').slice(0, 40).join(' ')}`)
    .join(' < ')
}

function report(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`)
}

process.on('unhandledRejection', (error) => {
  process.exitCode = 1
  report({ check: 'no error is left over', status: 'failed', error: described(error) })
})
