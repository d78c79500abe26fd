/** Log lines about upstream that cannot be reached: one for each change, however many calls fail. */
import t from 'tap'
import type { WireReason } from '../../src/model.ts'
import { createLog } from '../../src/telemetry/log.ts'
import { createReachability } from '../../src/telemetry/reachability.ts'

function aScene() {
  let now = 0
  let text = ''
  const log = createLog({ level: 'info', sink: (line) => void (text += line), secrets: [] })
  const clock = { now: () => now, wall: () => now, after: () => ({ cancel() {} }) }
  const { note } = createReachability({ clock, log })
  return {
    note,
    fail: (reason: WireReason, code: string | null = null) => note({ reason, code }),
    pass: (ms: number) => void (now += ms),
    /** Written since the last look. */
    lines() {
      const lines = text
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Record<string, unknown>)
      text = ''
      return lines
    },
  }
}

void t.test('a reason that begins is one line, and so is the end of all', async (t) => {
  const { note, fail, pass, lines } = aScene()
  note(null)
  t.strictSame(lines(), [], 'nothing to say while all is well')
  for (let call = 0; call < 1_000; call += 1) {
    fail('tls-expired', 'CERT_HAS_EXPIRED')
    pass(100)
  }
  t.match(lines(), [
    { level: 'warn', msg: 'upstream unreachable', reason: 'tls-expired', error_code: 'CERT_HAS_EXPIRED' },
  ])
  fail('refused', 'ECONNREFUSED')
  t.match(lines(), [{ msg: 'upstream unreachable', reason: 'refused', error_code: 'ECONNREFUSED' }])
  note(null)
  t.strictSame(lines(), [], 'one call that succeeds is not the end')
  pass(60_000)
  note(null)
  note(null)
  t.match(lines(), [{ level: 'info', msg: 'upstream reachable again', failed_calls: 1_001 }])
  fail('refused', 'ECONNREFUSED')
  t.equal(lines().length, 1, 'and it may begin again')
})

void t.test('one call in twenty that is reset, for an hour, is one line', async (t) => {
  const { note, fail, pass, lines } = aScene()
  for (let second = 0; second < 3_600; second += 1) {
    if (second % 20 === 0) fail('reset', 'ECONNRESET')
    else note(null)
    pass(1_000)
  }
  t.equal(lines().length, 1)
})

void t.test('trouble of this machine is told as such', async (t) => {
  const { fail, lines } = aScene()
  fail('local', 'EMFILE')
  t.match(lines(), [
    {
      level: 'error',
      msg: 'no connection to upstream: trouble of this machine',
      reason: 'local',
      error_code: 'EMFILE',
    },
  ])
})

void t.test('an upstream that is slow, closes idle connections or answers nonsense has been reached', async (t) => {
  const { fail, pass, lines } = aScene()
  for (const reason of ['timeout', 'idle-closed', 'malformed', 'truncated', 'too-big', 'aborted'] as const) fail(reason)
  t.strictSame(lines(), [])
  fail('no-route', 'ENETUNREACH')
  pass(60_000)
  fail('aborted')
  t.equal(lines().length, 1, 'what was ended here says nothing')
  fail('truncated')
  t.match(lines(), [{ msg: 'upstream reachable again' }])
})
