/**
 * The rows of the weather table, W1 to W12: the weather, and what must hold in it with default settings. The bounds are those of
 * the issue that asked for this table; they are never loosened to fit the figures. Longer than other files: one table.
 */
import {
  answers,
  capacity,
  type Case,
  failsAtRandom,
  inOrder,
  isWithin,
  type Measured,
  MINUTE,
  must,
  outage,
  type OutageKind,
  percent,
  poisson,
  queueFull,
  rateLimited,
  SECOND,
} from './cases.ts'
import { firstSuccess, isAnswered, isCircuitOpen, quantile, share } from './figures.ts'
import type { Ask, Asked, Run } from './run.ts'
import { type Behaviour, MEAN_MS, MEDIAN_MS, type SeenCall, type Treatment, usualAnswer } from './upstream.ts'

const PACES = [1, 20] as const
const REFUSAL = 31
const TOKENS = { one: 'token-of-client-one', flood: 'token-of-client-flood' }
const twoClients = [`clients.one.token=${TOKENS.one}`, `clients.flood.token=${TOKENS.flood}`]

// W1, W2: failures at random

function randomFailures(rate: number, afterMs: number | null): Case[] {
  const after = afterMs === null ? 'as long as an answer' : `${afterMs / SECOND} s`
  return PACES.map((perSecond) => {
    const lengthMs = perSecond === 1 ? 10 * MINUTE : 100 * SECOND
    return {
      row: rate < 0.5 ? 'W1' : 'W2',
      weather: `${percent0(rate)} fail after ${after}, ${perSecond}/s`,
      lengthMs,
      plan: (seed) => ({ asks: poisson(seed, perSecond, 0, lengthMs), behaviour: failsAtRandom(rate, afterMs) }),
      judge: rate < 0.5 ? asGoodAsPossible : ({ figures }) => must(figures.success >= 0.6, 'success is below 60 %'),
    }
  })
}

function asGoodAsPossible({ figures, possible }: Measured): readonly string[] {
  return [
    ...must(
      figures.refusedByCircuit <= 0.001,
      `the circuit refused ${percent(figures.refusedByCircuit)}, 0.1 % is allowed`,
    ),
    ...must(figures.success >= possible - 0.005, `success is more than 0.5 points below ${percent(possible)}`),
  ]
}

// W3, W7: outages

interface OutagePlan {
  readonly kind: OutageKind
  readonly perSecond: number
  readonly fromMs: number
  readonly forMs: number
  readonly lengthMs: number
}

function outageCase(row: string, weather: string, planned: OutagePlan, otherwise: Behaviour = answers): Case {
  const { kind, perSecond, fromMs, forMs, lengthMs } = planned
  return {
    row,
    weather,
    lengthMs,
    recoveredMs: fromMs + forMs,
    plan: (seed) => ({
      asks: poisson(seed, perSecond, 0, lengthMs),
      behaviour: outage(kind, fromMs, forMs, otherwise),
    }),
    judge: (measured) => [
      ...(forMs <= 10 * SECOND
        ? must(measured.figures.success >= 0.99, 'less than 99 % are answered')
        : outageHolds(measured, planned)),
      ...measured.runs.flatMap((run) => recovers(run, fromMs + forMs)),
    ],
  }
}

const HOLD_MS = 30 * SECOND
/** From the beginning of an outage to the opening. */
const NOTICED_MS = 20 * SECOND

function outageHolds({ figures, possible, runs }: Measured, planned: OutagePlan): readonly string[] {
  const { perSecond, fromMs, forMs, lengthMs } = planned
  const least = possible - (20 * SECOND + MEDIAN_MS) / lengthMs
  const inOutage = runs.map((run) => duringOutage(run, fromMs, forMs))
  const asked = inOutage.reduce((sum, { asked }) => sum + asked.length, 0)
  const calls = inOutage.reduce((sum, { calls }) => sum + calls.length, 0)
  // Until the circuit opens, all that come are asked.
  const opened = runs.map((run) =>
    duringOutage(run, fromMs + openedAfter(run, fromMs), forMs - openedAfter(run, fromMs)),
  )
  const askedOpen = opened.reduce((sum, { asked }) => sum + asked.length, 0)
  const reached = opened.reduce((sum, { asked, calls }) => sum + reachedUpstream(asked, calls), 0)
  const late = inOutage
    .flatMap(({ asked }) => asked)
    .filter((one) => one.atMs > fromMs + NOTICED_MS + HOLD_MS && isCircuitOpen(one))
    .map(({ durationMs, bareMs = 0 }) => durationMs - bareMs)
    .filter((ms) => ms >= 50)
  return [
    ...must(figures.success >= least, `success is below ${percent(least)}`),
    ...must(share(calls, asked) <= 1.1, `${share(calls, asked).toFixed(2)} attempts per request in the outage`),
    ...must(
      late.length === 0,
      `${late.length} were refused after more than 50 ms (up to ${Math.max(...late).toFixed(0)} ms), after the hold`,
    ),
    ...(perSecond < 20
      ? []
      : must(
          share(reached, askedOpen) <= 0.01,
          `${percent(share(reached, askedOpen))} of the requests in the outage reached upstream after the opening`,
        )),
  ]
}

function duringOutage({ asked, calls, startsAt }: Run, fromMs: number, forMs: number) {
  return {
    asked: asked.filter(({ atMs }) => isWithin(atMs, fromMs, forMs)),
    calls: calls.filter(({ startedAt }) => isWithin(startedAt - startsAt, fromMs, forMs)),
  }
}

function openedAfter({ openings, startsAt }: Run, fromMs: number): number {
  const first = openings.find((at) => at >= startsAt + fromMs)
  return first === undefined ? 0 : first - startsAt - fromMs
}

function reachedUpstream(asked: readonly Asked[], calls: readonly SeenCall[]): number {
  const called = new Set(calls.map(({ prompt }) => prompt))
  return asked.filter(({ prompt }) => called.has(prompt)).length
}

/** The first call that is answered starts in time, and one answer later all are let in. */
function recovers(run: Run, recoveredMs: number): readonly string[] {
  const first = firstSuccess(run, recoveredMs)
  if (!first) return ['no call was answered after the recovery']
  const waitedMs = first.startedAt - run.startsAt - recoveredMs
  const allInMs = first.endedAt - run.startsAt + MEDIAN_MS
  const late = run.asked.filter((one) => one.atMs > allInMs && isCircuitOpen(one))
  return [
    ...must(waitedMs <= 20 * SECOND, `the first call that was answered began ${seconds(waitedMs)} after the recovery`),
    ...must(late.length === 0, `${late.length} were refused later than one answer after that`),
  ]
}

function outages(): Case[] {
  const kinds: readonly OutageKind[] = ['503', 'refused', '502 in HTML']
  const lengths = [
    { name: '10 s', forMs: 10 * SECOND, lengthMs: 5 * MINUTE },
    { name: '90 s', forMs: 90 * SECOND, lengthMs: 6 * MINUTE },
    { name: '10 min', forMs: 10 * MINUTE, lengthMs: 15 * MINUTE },
  ]
  return lengths.flatMap(({ name, forMs, lengthMs }) =>
    kinds.flatMap((kind) =>
      PACES.map((perSecond) => {
        const planned = { kind, perSecond, fromMs: 2 * MINUTE, forMs, lengthMs }
        return outageCase('W3', `outage of ${name} (${kind}), ${perSecond}/s`, planned)
      }),
    ),
  )
}

/** Right after a start, and right after a circuit has closed. */
function atOtherTimes(): Case[] {
  return PACES.flatMap((perSecond) => {
    const lengthMs = 6 * MINUTE
    const before: Behaviour = outage('503', 60 * SECOND, 60 * SECOND)
    const randomly: Behaviour = outage('503', 30 * SECOND, 60 * SECOND, failsAtRandom(0.3, 500))
    return [
      outageCase('W7', `outage of 90 s (503) right after the start, ${perSecond}/s`, {
        kind: '503',
        perSecond,
        fromMs: 0,
        forMs: 90 * SECOND,
        lengthMs,
      }),
      outageCase(
        'W7',
        `outage of 90 s (503) 40 s after another one of 60 s, ${perSecond}/s`,
        { kind: '503', perSecond, fromMs: 160 * SECOND, forMs: 90 * SECOND, lengthMs },
        before,
      ),
      {
        row: 'W7',
        weather: `30 % fail after 0.5 s, 40 s after an outage of 60 s, ${perSecond}/s`,
        lengthMs,
        plan: (seed: number) => ({ asks: poisson(seed, perSecond, 0, lengthMs), behaviour: randomly }),
        about: ({ atMs }: Ask) => atMs > 130 * SECOND,
        judge: asGoodAsPossible,
      },
    ]
  })
}

// W4: one question that always fails

function badQuestion(): Case[] {
  return PACES.flatMap((perSecond) =>
    [false, true].map((noCache): Case => {
      const lengthMs = 5 * MINUTE
      return {
        row: 'W4',
        weather: `one question fails, asked 10/s${noCache ? ' with no-cache' : ''}; 10 % of the others fail, ${perSecond}/s`,
        sets: twoClients,
        lengthMs,
        about: ({ token }) => token === TOKENS.one,
        plan(seed) {
          const bad = Array.from({ length: (10 * lengthMs) / SECOND }, (_, at) => ({
            atMs: at * 100,
            prompt: 'bad 0',
            token: TOKENS.flood,
            noCache,
          }))
          const others = failsAtRandom(0.1, 500)
          return {
            asks: inOrder(poisson(seed, perSecond, 0, lengthMs, { token: TOKENS.one }), bad),
            behaviour: (call) =>
              call.prompt === 'bad 0' ? { kind: 'failure', status: 500, afterMs: 300 } : others(call),
          }
        },
        judge: ({ figures, possible, runs }) => [
          ...must(
            runs.every(({ openings }) => openings.length === 0),
            'the circuit opened',
          ),
          ...must(figures.success >= possible - 0.001, `the others: success is below ${percent(possible)}`),
        ],
      }
    }),
  )
}

// W5: the pool warms up

function warmUps(): Case[] {
  return PACES.flatMap((perSecond) =>
    [null, '5'].map((retryAfter): Case => {
      const lengthMs = 4 * MINUTE
      const warming: Treatment = {
        kind: 'failure',
        status: 503,
        afterMs: 100,
        detail: 'The scraper pool is warming up.',
        ...(retryAfter === null ? {} : { retryAfter }),
      }
      return {
        row: 'W5',
        weather: `503 for 5 s at the start and in the middle${retryAfter === null ? '' : `, Retry-After: ${retryAfter}`}, ${perSecond}/s`,
        lengthMs,
        plan: (seed) => ({
          asks: poisson(seed, perSecond, 0, lengthMs),
          behaviour: ({ atMs }) =>
            atMs < 5 * SECOND || isWithin(atMs, 2 * MINUTE, 5 * SECOND) ? warming : { kind: 'answer' },
        }),
        judge: ({ figures }) => must(figures.success >= 0.99, 'less than 99 % are answered'),
      }
    }),
  )
}

// W6: upstream hangs

function hangs(): Case[] {
  return PACES.map((perSecond): Case => {
    const fromMs = 2 * MINUTE
    const forMs = 10 * MINUTE
    const recoveredMs = fromMs + forMs
    const lengthMs = 16 * MINUTE
    return {
      row: 'W6',
      weather: `upstream hangs for 10 min, ${perSecond}/s`,
      lengthMs,
      recoveredMs,
      plan: (seed) => ({
        // Every other caller has 60 s of patience.
        asks: poisson(seed, perSecond, 0, lengthMs).map((ask, at) => (at % 2 ? { ...ask, patienceSeconds: 60 } : ask)),
        behaviour: ({ atMs }) => (isWithin(atMs, fromMs, forMs) ? { kind: 'hang' } : { kind: 'answer' }),
      }),
      judge: ({ runs }) =>
        runs.flatMap((run) => {
          const firstTimeout = Math.min(
            ...run.calls.filter(({ end }) => end === 'timeout').map(({ endedAt }) => endedAt),
          )
          const opened = run.openings[0] ?? Number.POSITIVE_INFINITY
          const late = run.asked.filter((one) => one.durationMs > (one.patienceSeconds ?? 600) * SECOND + SECOND)
          return [
            ...must(
              opened <= firstTimeout + 60 * SECOND,
              `the circuit opened ${seconds(opened - firstTimeout)} after the first time-out`,
            ),
            ...must(late.length === 0, `${late.length} were answered later than their patience`),
            ...recovers(run, recoveredMs),
          ]
        }),
    }
  })
}

// W8: upstream takes only so many at once

function capacities(): Case[] {
  const beyond = { 'queue full': queueFull, 'rate limit': rateLimited }
  const steady = [20, 100, 500].flatMap((limit) =>
    Object.entries(beyond).map(([words, treatment]): Case => {
      const lengthMs = 6 * MINUTE
      const perSecond = (0.8 * limit * SECOND) / MEAN_MS
      const bursts = [1 * MINUTE, 3.5 * MINUTE]
      return {
        row: 'W8',
        weather: `takes ${limit} at once (429 ${words}), offered 80 %, bursts of ${2 * limit}`,
        lengthMs,
        plan: (seed) => ({
          asks: inOrder(
            poisson(seed, perSecond, 0, lengthMs),
            ...bursts.map((atMs, burst) =>
              Array.from({ length: 2 * limit }, (_, at) => ({
                atMs,
                prompt: `burst ${9_000_000 + burst * 10_000 + at}`,
              })),
            ),
          ),
          behaviour: capacity(() => limit, treatment),
        }),
        judge: (measured) => [
          ...fits(measured),
          ...measured.runs.flatMap((run) =>
            bursts.flatMap((atMs) => isUsed(run, limit, atMs + 20 * SECOND, atMs + 50 * SECOND)),
          ),
        ],
      }
    }),
  )
  return [...steady, changingCapacity(), ...PACES.map(sharedQueue)]
}

/** The queue is full because of others: how many calls of ours are under way does not matter. */
function sharedQueue(perSecond: number): Case {
  const lengthMs = perSecond === 1 ? 10 * MINUTE : 100 * SECOND
  return {
    row: 'W8',
    weather: `10 % get 429 queue full at random, ${perSecond}/s`,
    lengthMs,
    plan: (seed) => ({
      asks: poisson(seed, perSecond, 0, lengthMs),
      behaviour: ({ chance }) => (chance(REFUSAL) < 0.1 ? queueFull : { kind: 'answer' }),
    }),
    judge: asGoodAsPossible,
  }
}

function changingCapacity(): Case {
  const lengthMs = 9 * MINUTE
  const limit = (atMs: number): number => (isWithin(atMs, 3 * MINUTE, 3 * MINUTE) ? 40 : 100)
  return {
    row: 'W8',
    weather: 'takes 100 at once, then 40, then 100 again (429 queue full), always more than that is asked',
    lengthMs,
    plan: (seed) => ({
      asks: poisson(seed, (1.1 * 100 * SECOND) / MEAN_MS, 0, lengthMs),
      behaviour: capacity(limit, queueFull),
    }),
    judge: ({ runs }) =>
      runs.flatMap((run) => [...isUsed(run, 40, 4 * MINUTE, 6 * MINUTE), ...isUsed(run, 100, 7 * MINUTE, 9 * MINUTE)]),
  }
}

function fits({ figures }: Measured): readonly string[] {
  return [
    ...must(figures.success >= 0.99, 'less than 99 % are answered'),
    ...must(figures.attemptsPerRequest <= 1.15, `${figures.attemptsPerRequest.toFixed(2)} attempts per request`),
  ]
}

/** Between these times, at least nine tenths of what upstream takes were under way. */
function isUsed({ calls, startsAt }: Run, limit: number, fromMs: number, untilMs: number): readonly string[] {
  const [from, until] = [startsAt + fromMs, startsAt + untilMs]
  let busyMs = 0
  for (const { startedAt, endedAt, end } of calls)
    if (end === 'answered') busyMs += Math.max(0, Math.min(endedAt, until) - Math.max(startedAt, from))
  const used = busyMs / (untilMs - fromMs) / limit
  return must(
    used >= 0.9,
    `${percent0(used)} of what upstream takes were used ${seconds(fromMs)} to ${seconds(untilMs)}`,
  )
}

// W9, W10: bursts, and a client that floods

function bursts(): Case[] {
  return [burstCase('', answers, 10 * MINUTE), burstCase(', upstream takes 100 at once', takes100, 10 * MINUTE)]
}

const takes100 = capacity(() => 100, queueFull)

export function burstCase(words: string, behaviour: Behaviour, everyMs: number): Case {
  const lengthMs = 1.6 * everyMs
  const firstMs = everyMs / 10
  return {
    row: 'W9',
    weather: `500 questions at once every ${everyMs / MINUTE} min, 1/s beside${words}`,
    lengthMs,
    plan: (seed) => ({
      asks: inOrder(
        poisson(seed, 1, 0, lengthMs),
        ...[0, 1].map((burst) =>
          Array.from({ length: 500 }, (_, at) => ({
            atMs: firstMs + burst * everyMs,
            prompt: `burst ${9_000_000 + burst * 10_000 + at}`,
          })),
        ),
      ),
      behaviour,
    }),
    judge: ({ figures, asked }) => {
      const overloaded = asked.filter(({ code }) => code === 'OVERLOADED').length
      return [
        ...must(figures.success === 1, `${percent(1 - figures.success)} were not answered`),
        ...must(overloaded === 0, `${overloaded} were refused as OVERLOADED`),
      ]
    },
  }
}

function flood(): Case[] {
  const lengthMs = 8 * MINUTE
  const isOther = ({ token }: Ask): boolean => token === TOKENS.one
  const p95 = (durations: readonly number[]): number =>
    quantile(
      durations.toSorted((a, b) => a - b),
      0.95,
    )
  return [
    {
      row: 'W10',
      weather: 'one client floods with 5,000 questions, another asks 1/s, upstream takes 200 at once',
      sets: twoClients,
      lengthMs,
      about: isOther,
      plan: (seed) => ({
        asks: inOrder(
          poisson(seed, 1, 0, lengthMs, { token: TOKENS.one }),
          Array.from({ length: 5_000 }, (_, at) => ({
            atMs: MINUTE + at * 10,
            prompt: `flood ${9_000_000 + at}`,
            token: TOKENS.flood,
          })),
        ),
        behaviour: capacity(() => 200, queueFull),
      }),
      judge({ runs, figures }) {
        const beside = runs.map(({ asked, calls }) => {
          const during = asked.filter((ask) => isOther(ask) && isWithin(ask.atMs, MINUTE, 3 * MINUTE))
          const answers = new Map(calls.map(({ prompt, startedAt, endedAt }) => [prompt, endedAt - startedAt]))
          return during.map(({ prompt, durationMs }) => ({ durationMs, aloneMs: answers.get(prompt) ?? durationMs }))
        })
        // Alone, the same questions would have taken as long as their answers.
        const alone = p95(beside.flat().map(({ aloneMs }) => aloneMs))
        const now = p95(beside.flat().map(({ durationMs }) => durationMs))
        return [
          ...must(now <= 1.2 * alone, `p95 of the other is ${seconds(now)}, alone ${seconds(alone)}`),
          ...must(figures.success >= 0.999, 'the other is not always answered'),
        ]
      },
    },
  ]
}

// W11: keys

function keyTroubles(): Case[] {
  const credits: Treatment = {
    kind: 'failure',
    status: 429,
    afterMs: 100,
    detail: 'Credit limit reached. Upgrade your plan or wait for your billing cycle to reset.',
  }
  const once = (treatment: Treatment): Behaviour => {
    let isDone = false
    return ({ atMs }) => {
      if (isDone || atMs < MINUTE) return { kind: 'answer' }
      isDone = true
      return treatment
    }
  }
  const limited = (retryAfter: string): Treatment => ({ ...rateLimited, retryAfter }) as Treatment
  const troubles: readonly (readonly [string, number, () => Behaviour])[] = [
    [
      'the key has no credits for 5 min',
      6 * MINUTE,
      () =>
        ({ atMs }) =>
          isWithin(atMs, MINUTE, 5 * MINUTE) ? credits : { kind: 'answer' },
    ],
    ['one 429 with Retry-After: 60000', MINUTE, () => once(limited('60000'))],
    ['one 429 with Retry-After in the past', MINUTE, () => once(limited('Wed, 21 Oct 2015 07:28:00 GMT'))],
    [
      '429 for 5 s with Retry-After: 0',
      MINUTE + 5 * SECOND,
      () =>
        ({ atMs }) =>
          isWithin(atMs, MINUTE, 5 * SECOND) ? limited('0') : { kind: 'answer' },
    ],
  ]
  return PACES.flatMap((perSecond) =>
    troubles.map(([words, paysAgainMs, behaviour]): Case => {
      const lengthMs = paysAgainMs + 3 * MINUTE
      return {
        row: 'W11',
        weather: `${words}, ${perSecond}/s`,
        lengthMs,
        recoveredMs: paysAgainMs,
        plan: (seed) => ({ asks: poisson(seed, perSecond, 0, lengthMs), behaviour: behaviour() }),
        judge: ({ runs }) =>
          runs.flatMap((run) => [
            ...answersWithin(run, paysAgainMs, 60 * SECOND),
            ...pausesAreSpread(run, paysAgainMs),
          ]),
      }
    }),
  )
}

function answersWithin(run: Run, sinceMs: number, mostMs: number): readonly string[] {
  const first = firstSuccess(run, sinceMs)
  const waitedMs = first ? first.startedAt - run.startsAt - sinceMs : Number.POSITIVE_INFINITY
  return must(waitedMs <= mostMs, `no answer for ${seconds(waitedMs)} after it could pay again`)
}

/** Repetitions of one moment do not come together: no tenth of a second has half of them. */
function pausesAreSpread({ calls, startsAt }: Run, untilMs: number): readonly string[] {
  const repeated = calls.filter(({ attempt, startedAt }) => attempt > 1 && startedAt - startsAt < untilMs + 30 * SECOND)
  if (repeated.length < 20) return []
  const bins = new Map<number, number>()
  for (const { startedAt } of repeated) {
    const bin = Math.floor(startedAt / 100)
    bins.set(bin, (bins.get(bin) ?? 0) + 1)
  }
  const most = Math.max(...bins.values())
  return must(most <= repeated.length / 2, `${most} of ${repeated.length} repetitions came within 100 ms`)
}

// W12: answers of a shape that nobody has seen

const answer = JSON.parse(usualAnswer('?')) as Record<string, unknown>
const { status: _status, ...withoutStatus } = answer
const shapes: readonly (readonly [string, number, unknown])[] = [
  [
    'an empty text beside search results',
    200,
    { ...answer, result: '', search_results: [{ url: 'https://example.com' }] },
  ],
  ['blocks instead of a text', 200, { ...answer, result: [{ type: 'text', text: 'An answer.' }] }],
  ['an object instead of a text', 200, { ...answer, result: { text: 'An answer.' } }],
  ['status completed', 200, { ...answer, status: 'completed' }],
  ['no status', 200, withoutStatus],
  ['products: []', 200, { ...withoutStatus, products: [] }],
  ['an array', 200, [answer]],
  ['201', 201, answer],
  ['203', 203, answer],
  ['206', 206, answer],
  ['202 with a job_id', 202, { job_id: '00000000-0000-4000-9000-000000000002' }],
  ['a member renamed', 200, { ...withoutStatus, answer: 'An answer.', result: undefined }],
]

function unknownShapes(): Case[] {
  return shapes.map(([words, status, document]): Case => {
    const lengthMs = 2 * MINUTE
    const odd: Treatment = { kind: 'answer', reply: { status, body: JSON.stringify(document) } }
    // Five in a row, without any other answer between them.
    const isOdd = (prompt: string): boolean => prompt.startsWith('odd')
    return {
      row: 'W12',
      weather: `five answers in a row: ${words}`,
      lengthMs,
      plan: (seed) => ({
        asks: inOrder(
          poisson(seed, 1, 60 * SECOND, lengthMs),
          Array.from({ length: 5 }, (_, at) => ({ atMs: at * 100, prompt: `odd ${9_000_000 + at}` })),
        ),
        behaviour: ({ prompt }) => (isOdd(prompt) ? odd : { kind: 'answer' }),
      }),
      judge: ({ runs }) =>
        runs.flatMap(({ asked, calls, openings }) => {
          const handedOn = asked.filter((one) => isOdd(one.prompt) && isAnswered(one)).length
          const paid = calls.filter(({ prompt }) => isOdd(prompt)).length
          return [
            ...must(handedOn === 5, `${handedOn} of 5 were handed on`),
            ...must(paid === 5, `they were paid ${paid} times`),
            ...must(openings.length === 0, 'the circuit opened'),
          ]
        }),
    }
  })
}

export const cases: readonly Case[] = [
  ...[0.05, 0.1, 0.2, 0.3].flatMap((rate) => [500, 12_000, null].flatMap((afterMs) => randomFailures(rate, afterMs))),
  ...[500, 12_000, null].flatMap((afterMs) => randomFailures(0.5, afterMs)),
  ...outages(),
  ...badQuestion(),
  ...warmUps(),
  ...hangs(),
  ...atOtherTimes(),
  ...capacities(),
  ...bursts(),
  ...flood(),
  ...keyTroubles(),
  ...unknownShapes(),
]

function percent0(share: number): string {
  return `${Math.round(share * 100)} %`
}

function seconds(ms: number): string {
  return Number.isFinite(ms) ? `${(ms / SECOND).toFixed(1)} s` : 'never'
}
