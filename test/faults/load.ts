/**
 * Callers: new questions, the same one at several replicas at once, known ones again, and some who hang up. Each ask is kept
 * with how it ended; what that should have been is judged elsewhere.
 */
import { type Answer, request } from '../support/proxy.ts'
import type { Dice } from './dice.ts'
import { type Fleet, type Life, TEAM_TOKEN } from './fleet.ts'

export interface Ask {
  readonly prompt: string
  readonly client: 'anonymous' | 'team'
  readonly life: Life
  readonly done: Promise<void>
  /** The answer, or why there is none: the caller left, or the connection broke. Null = it is open. */
  end: Answer | 'left' | { readonly broke: string } | null
}

export function answerTo({ end }: Ask): Answer | null {
  return end !== null && typeof end === 'object' && 'status' in end ? end : null
}

export function isBroken({ end }: Ask): boolean {
  return end !== null && typeof end === 'object' && 'broke' in end
}

export interface Mix {
  readonly workers: number
  /** Shares; the rest are new questions at one replica. */
  readonly together: number
  readonly again: number
  readonly leaving: number
  readonly team: number
  /** Told of a new question before it is asked. */
  readonly prepare: (prompt: string) => void
}

export interface Load {
  /** Resolves when so many more asks have ended. */
  readonly moves: (count: number) => Promise<void>
  /** No new asks; resolves when all have ended. */
  readonly stop: () => Promise<void>
}

const usual: Mix = { workers: 12, together: 0.15, again: 0.2, leaving: 0.08, team: 0.3, prepare: () => undefined }

let questions = 0

/** Whose question it is is in its name, so that the ledger of upstream knows it, too. */
export function newPrompt(client: Ask['client']): string {
  return `${client} question ${(questions += 1)}`
}

export function clientOf(prompt: string): Ask['client'] {
  return prompt.startsWith('team') ? 'team' : 'anonymous'
}

export function ask(life: Life, prompt: string, signal?: AbortSignal): Ask {
  const client = clientOf(prompt)
  const headers: Record<string, string> = client === 'team' ? { 'x-api-key': TEAM_TOKEN } : {}
  const url = `${life.program.url}/scrapers/chatgpt?${new URLSearchParams({ prompt, timeout: '10' }).toString()}`
  const answering = request(life.agent, url, { headers, ...(signal ? { signal } : {}) })
  const done = answering.then(
    (answer) => void (asked.end = answer),
    (error: unknown) => void (asked.end = signal?.aborted ? 'left' : { broke: String(error) }),
  )
  const asked: Ask = { prompt, client, life, done, end: null }
  return asked
}

/** `asked` is told of every ask as it begins; `known` are questions that all replicas have the answer of. */
export function startLoad(
  fleet: Fleet,
  dice: Dice,
  known: Iterable<string>,
  asked: (ask: Ask) => void,
  options: Partial<Mix> = {},
): Load {
  const mix = { ...usual, ...options }
  const knownOf = Map.groupBy(known, clientOf)
  const waiting = new Set<{ readonly from: number; readonly resolve: () => void }>()
  let ended = 0
  const state = { isOver: false }

  async function follow(one: Ask): Promise<void> {
    asked(one)
    await one.done
    ended += 1
    for (const waiter of waiting) {
      if (ended < waiter.from) continue
      waiting.delete(waiter)
      waiter.resolve()
    }
  }

  async function work(): Promise<void> {
    while (!state.isOver) {
      const lives = fleet.up()
      if (lives.length === 0) await dice.moment(20)
      else await Promise.all(turn(lives).map(follow))
    }
  }

  function turn(lives: readonly Life[]): Ask[] {
    const client = dice.chance(mix.team) ? 'team' : 'anonymous'
    const again = knownOf.get(client) ?? []
    const what = dice.luck()
    if (what < mix.again && again.length > 0) return [ask(dice.pick(lives), dice.pick(again))]
    const prompt = newPrompt(client)
    mix.prepare(prompt)
    if (what < mix.again + mix.together) {
      return dice.some(lives, 2).flatMap((life) => [ask(life, prompt), ask(life, prompt)])
    }
    if (what < mix.again + mix.together + mix.leaving) {
      const leaving = new AbortController()
      void dice.moment(60).then(() => leaving.abort())
      return [ask(dice.pick(lives), prompt, leaving.signal)]
    }
    return [ask(dice.pick(lives), prompt)]
  }

  const working = Promise.all(Array.from({ length: mix.workers }, work))

  return {
    moves: (count) => new Promise((resolve) => void waiting.add({ from: ended + count, resolve })),
    async stop() {
      state.isOver = true
      await working
    },
  }
}
