/** Flights, as events tell of them: found by the requests that waited for them, and forgotten afterwards. */
import t from 'tap'
import type { Exchange } from '../../src/model.ts'
import { FlightTrails } from '../../src/telemetry/flight-trails.ts'
import { aCall } from '../support/verdicts.ts'
import { fakeClock } from '../support/world.ts'

const call = aCall()
const request = { id: 'first', traceparent: null }
const leader = { flight: { id: 7, role: 'leader' } } as Exchange
const joined = { flight: { id: 7, role: 'joined' } } as Exchange

function begun(on: 'request' | 'refresh' = 'request') {
  const trails = new FlightTrails(fakeClock())
  trails.started({ kind: 'flight-started', flight: 7, call, payer: 'team', request, on })
  return trails
}

function asks(trails: FlightTrails): void {
  trails.note({ kind: 'attempt-started', flight: 7, scraper: 'alpha', number: 1, waitedMs: 0, keyName: 'main' })
}

void t.test('a flight that has not asked upstream is nobody’s', async (t) => {
  const trails = begun()
  t.equal(trails.of(leader), null)
  t.equal([...trails.aloft()].length, 1)
  asks(trails)
  t.match(trails.of(leader), { id: 'first', payer: 'team', underWay: { number: 1, keyName: 'main' } })
})

void t.test('it is known until it has landed and each request that waited is recorded', async (t) => {
  const trails = begun()
  trails.note({ kind: 'flight-joined', flight: 7, request })
  asks(trails)
  const flight = trails.ended({ kind: 'flight-ended', flight: 7 })
  t.equal(flight?.isLeaderOpen, true)
  t.equal([...trails.aloft()].length, 0)
  trails.left(leader)
  t.equal(flight?.isLeaderOpen, false)
  t.equal(trails.of(joined), flight)
  trails.left(joined)
  t.equal(trails.of(joined), null)
})

void t.test('whoever leaves early leaves it in the air', async (t) => {
  const trails = begun()
  asks(trails)
  trails.left(leader)
  t.ok(trails.of(leader))
  const flight = trails.ended({ kind: 'flight-ended', flight: 7 })
  t.equal(flight?.isLeaderOpen, false)
  t.equal(trails.of(leader), null)
})

void t.test('nobody waits for a refresh', async (t) => {
  const trails = begun('refresh')
  asks(trails)
  t.match(trails.ended({ kind: 'flight-ended', flight: 7 }), { isLeaderOpen: false, waiting: 0 })
  t.equal(trails.of(leader), null)
})
