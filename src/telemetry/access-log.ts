/**
 * One JSON line per request, written in batches: a hit costs a string concatenation, not a logger call. A batch leaves when
 * it is big enough, a tenth of a second after its first line, or when somebody flushes. A line never holds a prompt (but
 * for `prompts`, which the operator must ask for), a key, a token or the request target.
 */
import type { Code, Reason } from '../errors.ts'
import type { CacheLabel, Call, Tier } from '../model.ts'
import type { Clock } from '../ports.ts'
import type { Saving } from './ledger.ts'
import type { OutcomeName } from './outcome-status.ts'
import { writes, type LogLevel, type Sink } from './log.ts'

const batchChars = 16_384
const batchMs = 100

export interface Access {
  /** Null = refused so early that it got none. */
  readonly id: string | null
  readonly client: string
  /** Null = the request was refused before it was read. */
  readonly call: Call | null
  readonly status: number | 'gone'
  readonly cache: CacheLabel
  readonly tier: Tier | null
  readonly code: Code | null
  /** Where the code has several causes. */
  readonly reason?: Reason | null
  readonly attempts: number
  readonly credits: number
  readonly durationMs: number
  readonly traceId?: string | null
  /** What it was to an operator; null = the caller disconnected. */
  readonly outcome: OutcomeName | null
  /** Null = it saved no credits. */
  readonly saved: Saving | null
}

export interface AccessLog {
  readonly write: (access: Access) => void
  /** Hands everything on at once: before the process ends, too. */
  readonly flush: () => void
  /** From now on. */
  readonly adopt: (options: AccessLogOptions) => void
}

export interface AccessLogOptions {
  readonly level: LogLevel
  /** Prompts are sensitive: only their hash is written unless this is true. */
  readonly prompts: boolean
}

export function createAccessLog(
  options: AccessLogOptions,
  { clock, sink }: { readonly clock: Clock; readonly sink: Sink },
): AccessLog {
  let isWanted = false
  let prompts = false
  let batch = ''
  let timer: { cancel(): void } | null = null
  const isoTime = createIsoTime()
  const quoteName = createQuote()

  adopt(options)

  return {
    write(access) {
      if (!isWanted) return
      batch += line(access)
      if (batch.length >= batchChars) return flush()
      timer ??= clock.after(batchMs, flush)
    },
    flush,
    adopt,
  }

  function adopt(next: AccessLogOptions): void {
    isWanted = writes(next.level, 'info')
    prompts = next.prompts
  }

  function flush(): void {
    timer?.cancel()
    timer = null
    if (batch === '') return
    const text = batch
    batch = ''
    sink(text)
  }

  /** Few pieces, because each one is an allocation: what many lines have in common is written once. */
  function line(access: Access): string {
    const { id, client, call, durationMs, traceId } = access
    const hash = call?.promptHash ?? null
    return (
      `{"level":"info","time":"${isoTime(clock.wall())}","msg":"request","id":${quoted(id)}` +
      `,"client":${quoteName(client)},"scraper":${quoteName(call?.scraper ?? 'none')}` +
      `,"endpoint":${call ? quoteName(call.endpoint) : 'null'}${endOf(access)}${Math.round(durationMs * 1000) / 1000}` +
      `,"prompt_hash":${hash === null ? 'null' : `"${hash}"`}` +
      `${traceId ? `,"trace_id":"${traceId}"` : ''}${prompts ? promptOf(call) : ''}}\n`
    )
  }
}

/** Most ids need no escaping, and to look is cheaper than to do it. */
function quoted(id: string | null): string {
  return id !== null && /^[\w.:/+-]*$/.test(id) ? `"${id}"` : JSON.stringify(id)
}

const memoryHit = endingOf(200, 'hit', 'memory', null, null, 0, 0)

function endOf({ status, cache, tier, code, reason = null, attempts, credits }: Access): string {
  if (cache === 'hit' && tier === 'memory' && status === 200) return memoryHit
  return endingOf(status, cache, tier, code, reason, attempts, credits)
}

function endingOf(
  status: Access['status'],
  cache: CacheLabel,
  tier: Tier | null,
  code: Code | null,
  reason: Reason | null,
  attempts: number,
  credits: number,
): string {
  return (
    `,"status":${status === 'gone' ? '"gone"' : status},"cache":"${cache}","tier":${tier ? `"${tier}"` : 'null'}` +
    `,"code":${code ? `"${code}"` : 'null'}${reason ? `,"reason":"${reason}"` : ''},"attempts":${attempts},"credits":${credits},"duration_ms":`
  )
}

function promptOf(call: Call | null): string {
  const prompt = call?.params.find(([name]) => name === 'prompt')
  return prompt ? `,"prompt":${JSON.stringify(prompt[1])}` : ''
}

/** Names come from closed lists, so each is quoted once. */
function createQuote(): (name: string) => string {
  const quoted = new Map<string, string>()
  return (name) => {
    const known = quoted.get(name)
    if (known !== undefined) return known
    const fresh = JSON.stringify(name)
    quoted.set(name, fresh)
    return fresh
  }
}

/** ISO 8601; made once per millisecond, the part down to the second once per second. */
function createIsoTime(): (at: number) => string {
  let second = Number.NaN
  let secondText = ''
  let millisecond = Number.NaN
  let text = ''
  return (at) => {
    const thisMillisecond = Math.floor(at)
    if (thisMillisecond === millisecond) return text
    millisecond = thisMillisecond
    const thisSecond = Math.floor(at / 1000)
    if (thisSecond !== second) {
      second = thisSecond
      secondText = new Date(thisSecond * 1000).toISOString().slice(0, -4)
    }
    text = `${secondText}${String(thisMillisecond - thisSecond * 1000).padStart(3, '0')}Z`
    return text
  }
}
