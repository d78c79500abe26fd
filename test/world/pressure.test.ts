/** The real gauge: what it says of a process that is idle, one that is blocked, and one that holds memory. */
import t from 'tap'
import { createPressureGauge } from '../../src/world/pressure.ts'

/** Node's timers fire no earlier than asked for, so the gauge has ticked. */
const pass = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

function block(ms: number): void {
  const until = performance.now() + ms
  while (performance.now() < until);
}

void t.test('a blocked loop is late and busy, for the one look after it', async (t) => {
  const gauge = createPressureGauge()
  await pass(120)
  gauge.read()
  await pass(60)
  block(300)
  await pass(60)
  const blocked = gauge.read()
  t.ok(blocked.eventLoopDelayMs >= 200, `late: ${blocked.eventLoopDelayMs}`)
  t.ok(blocked.eventLoopBusy > 0, `busy: ${blocked.eventLoopBusy}`)
  gauge.close()
})

void t.test('a loop that has not come round since the last look is late, too', async (t) => {
  const gauge = createPressureGauge()
  gauge.read()
  block(200)
  t.ok(gauge.read().eventLoopDelayMs >= 150)
  gauge.close()
})

void t.test('memory is a share of what there is, and grows with what is held', async (t) => {
  const gauge = createPressureGauge()
  t.ok(gauge.limitBytes > 0 && gauge.limitBytes < 2 ** 50, 'a limit that a machine can have')
  const before = gauge.read().memory
  const held = Buffer.alloc(Math.min(200_000_000, gauge.limitBytes / 10), 1)
  const after = gauge.read().memory
  t.ok(before > 0 && after > before && after < 1, `${before} → ${after}`)
  t.equal(held[0], 1)
  gauge.close()
})
