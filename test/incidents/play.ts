/** Plays one incident: calm for a while, then it happens, and for six minutes of the rules is written down who was told what. */
import { createScope } from '../support/scope.ts'
import type { Incident } from './incidents.ts'
import { type Look, lookAt } from './panels.ts'
import { ruleSeconds, SPEED } from './scaled.ts'
import { aStage, type Notification } from './stage.ts'

export interface Played {
  readonly name: string
  /** The first that somebody was told; null = nobody was. */
  readonly first: Notification | null
  /** From the moment when it happened to the message, in seconds of the rules. */
  readonly delaySeconds: number | null
  readonly firstLine: string | null
  /** Panels of the dashboards that were red at the height of it. */
  readonly red: readonly string[]
  /** Without their prefix: what should have been told, and was told besides. */
  readonly faults: readonly string[]
}

const CALM_MS = (5 * 60_000) / SPEED
const WATCH_MS = (6 * 60_000) / SPEED
const CALM_WATCH_MS = (15 * 60_000) / SPEED
const MOST_DELAY_SECONDS = 300
const ASK_EVERY_MS = 200

/** What a machine does when others use it, too: the proxy adds more time, and a scrape takes longer than a second. */
const ofMachine = /promise of (?:overhead|hits)|^Down was told/
const MOST_TRIES = 3

/** Once more where only the machine was too busy: then it is no news of the proxy. */
export async function play(incident: Incident): Promise<Played> {
  for (let tries = 1; ; tries += 1) {
    const played = await playOnce(incident)
    if (tries === MOST_TRIES || !played.faults.some((one) => ofMachine.test(one))) return played
    console.log(`${incident.name}: the machine was too busy, once more`)
  }
}

async function playOnce({ name, alert, prepare, happens }: Incident): Promise<Played> {
  const scope = createScope()
  try {
    const stage = await aStage(scope, await prepare?.(scope))
    let turn = 0
    const pending = new Set<Promise<void>>()
    // Half of the questions were asked before.
    const traffic = setInterval(() => {
      turn += 1
      const one = stage.ask(turn % 2 === 0 ? `question ${turn}` : `known ${turn % 10}`)
      pending.add(one)
      void one.finally(() => pending.delete(one))
    }, ASK_EVERY_MS)
    scope.teardown(() => clearInterval(traffic))
    await pause(CALM_MS)
    const before = stage.told.length
    const startedAt = Date.now()
    const happening = Promise.resolve(happens(stage))
    let firstLine: string | null = null
    let look: Look | null = null
    const end = startedAt + (alert === null ? CALM_WATCH_MS : WATCH_MS)
    while (Date.now() < end) {
      await pause(250)
      if (stage.told.length > before && firstLine === null) firstLine = await stage.firstLine()
      if (stage.told.length > before) look ??= await lookAt(stage.prometheus)
    }
    look ??= await lookAt(stage.prometheus)
    await Promise.race([happening, pause(5_000)])
    const [first = null] = stage.told
    const delaySeconds = first ? ruleSeconds(first.at - startedAt) : null
    const said = new Map(stage.told.map((one) => [one.name.replace('ScrapellmProxy', ''), one.summary]))
    const faults = [
      ...(alert !== null && !said.has(alert) ? [`${alert} was not told`] : []),
      ...[...said].filter(([one]) => one !== alert).map(([one, summary]) => `${one} was told: ${summary}`),
      ...(delaySeconds !== null && delaySeconds < 0 ? ['it was told before it happened'] : []),
      ...(delaySeconds !== null && delaySeconds > MOST_DELAY_SECONDS ? [`told after ${delaySeconds} s`] : []),
      ...look.faults.map((fault) => `panel ${fault}`),
      ...(alert === null ? look.red.map((one) => `panel ${one} is red`) : []),
    ]
    firstLine ??= await stage.firstLine()
    clearInterval(traffic)
    return { name, first, delaySeconds, firstLine, red: look.red, faults }
  } finally {
    await scope.end()
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
