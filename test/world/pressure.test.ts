/** The real gauge: what it says of a process that is idle, one that is blocked, and one that holds memory. */
import t from 'tap'
import { createPressureGauge, memoryInUse } from '../../src/world/pressure.ts'

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

const MIB = 1_048_576

void t.test(
  'what the allocator keeps unused is not in use; near the limit, as long as resident memory does not grow',
  (t) => {
    const inUse = memoryInUse(300 * MIB)
    const look = (rss: number, heapTotal: number, arrayBuffers: number, looks = 1): number => {
      let bytes = 0
      for (let i = 0; i < looks; i += 1)
        bytes = inUse({ rss: rss * MIB, heapTotal: heapTotal * MIB, arrayBuffers: arrayBuffers * MIB })
      return Math.round(bytes / MIB)
    }
    t.equal(look(100, 40, 0), 100)
    t.equal(look(270, 60, 150), 270)
    t.equal(look(268, 60, 20), 140, '130 MiB of answers were freed, and 2 MiB were returned')
    t.equal(look(270, 60, 120), 240, 'they are used again')
    t.equal(look(275, 65, 20), 145, 'the heap has pages of its own')
    t.equal(look(282, 60, 20), 152, 'native memory has grown')
    t.equal(look(180, 60, 20), 152, 'some of it was returned')
    t.equal(look(75, 60, 10), 75, 'never more than what is resident')
    t.equal(look(290, 60, 20), 290, 'nearly all, and it grows')
    t.equal(look(290, 60, 20, 10), 93, 'and then no more')
    t.end()
  },
)

void t.test('memory that answers took is free again when they are gone', (t) => {
  const gauge = createPressureGauge({ limitBytes: 1_000 * MIB })
  const held: Buffer[] = []
  for (let i = 0; i < 10_000; i += 1) held.push(Buffer.alloc(20_000, 1))
  const before = gauge.read().memory
  held.length = 0
  gauge.reclaim()
  // Buffers are freed by another thread.
  const until = performance.now() + 10_000
  let after = gauge.read().memory
  while (before - after <= 0.15 && performance.now() < until) {
    gauge.reclaim()
    after = gauge.read().memory
  }
  t.ok(before - after > 0.15, `${before} → ${after}`)
  gauge.close()
  t.end()
})
