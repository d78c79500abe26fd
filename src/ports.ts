/**
 * The outside world as interfaces. The real ones live in `world/`; tests hand in their own. Nothing below `compose.ts`
 * may reach for time, chance, the network or the disk in any other way.
 */
import type { Entry, PurgeFilter, UpstreamRequest, WireResult } from './model.ts'
import type { RedisTrouble, TelemetryEvent } from './telemetry/events.ts'

export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Epoch milliseconds that never run backwards: for deadlines, pauses, limits and durations. */
  now(): number
  /** Epoch milliseconds of the wall: for what is stored, shown, or counted by UTC days. Follows clock steps. */
  wall(): number
  /** Runs `job` once after `ms`. Does not keep the process alive. */
  after(ms: number, job: () => void): Timer
}

export interface Random {
  /** Uniform in [0, 1). */
  next(): number
  /** A new request id: 36 visible ASCII characters, unguessable. */
  id(): string
}

export interface Transport {
  /** One buffered exchange with upstream. Never rejects: wire failures are values. */
  forward(request: UpstreamRequest): Promise<WireResult>
  /**
   * The operator's file of certificates holds this now. True = something else than before, and new connections trust it. Throws
   * when it is no good.
   */
  trust(pem: string): boolean
  /** Ends all connections: what is under way breaks as `aborted`. */
  close(): void
}

/** Tells telemetry that something happened beside an outcome. Never throws. */
export type Emit = (event: TelemetryEvent) => void

/** Where upstream is, and how patient and greedy a connection to it may be. */
export interface UpstreamOptions {
  /** Scheme, host and port; whatever path it has is not used. */
  readonly url: string
  readonly connectTimeoutMs: number
  /** An older connection is not used for another request. */
  readonly connectionMaxAgeMs: number
  readonly maxResponseBytes: number
  /** Null or left out = upstream is connected to directly. */
  readonly proxy?: OutboundProxy | null
  /** A file of certificates to be believed besides the usual ones. */
  readonly caPath?: string | null
}

/** An HTTP proxy between this machine and upstream. */
export interface OutboundProxy {
  /** Scheme, host and port. */
  readonly url: string
  /** Value of `Proxy-Authorization`; null = none is sent. */
  readonly authorization: string | null
}

export interface Output {
  write(text: string): void
  /** Writes what waits, as far as the reader takes it now: for the end of the process. */
  flush(): void
}

/** How hard the process is pressed: since the look before, and now. */
export interface Pressure {
  /** 99 of 100 times the event loop was no later than this. */
  readonly eventLoopDelayMs: number
  /** The share of the time in which it had something to do, 0 to 1. */
  readonly eventLoopBusy: number
  /** The share in use of all memory that the process may take, or of its heap, whichever is fuller. Without what is kept unused for later. */
  readonly memory: number
}

export interface PressureGauge {
  /** What the process may take, by its container or its machine. */
  readonly limitBytes: number
  read(): Pressure
  /** Collects garbage now. Takes some ten milliseconds. */
  reclaim(): void
  close(): void
}

/** Where the shared store is: one server, a master that Sentinels watch over, or a cluster. */
export interface SharedOptions {
  readonly place:
    | { readonly kind: 'single'; readonly url: string }
    | { readonly kind: 'sentinel'; readonly urls: readonly string[]; readonly name: string }
    | { readonly kind: 'cluster'; readonly urls: readonly string[] }
  /** Null = as in the URL. */
  readonly username: string | null
  readonly password: string | null
  readonly database: number
  readonly timeoutMs: number
  readonly prefix: string
  /** As with upstream. */
  readonly caPath?: string | null
}

/** All effects that parts may have: made once per process. Tests make their own. */
export interface World {
  readonly clock: Clock
  readonly random: Random
  readonly output: Output
  /** Variables that name an outbound proxy are looked for here. */
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly connect: (options: UpstreamOptions) => Transport
  readonly openDisk: (options: DiskOptions, emit: Emit) => Disk
  readonly openAuditFile: (options: { readonly path: string; readonly maxBytes: number }, emit: Emit) => AuditFile
  readonly openShared: (options: SharedOptions, emit: Emit) => SharedStore
  readonly gaugePressure: () => PressureGauge
  /** One POST, redirects not followed. Never rejects: the status, or null when none came in time. */
  readonly post: (
    url: string,
    letter: {
      readonly body: string
      readonly headers: Readonly<Record<string, string>>
      readonly timeoutMs: number
      readonly proxy?: OutboundProxy | null
    },
  ) => Promise<number | null>
  /** Calls back at once with what the file holds, and again after each change; null = it cannot be read. */
  readonly watchFile: (path: string, onChange: (text: string | null) => void) => { close(): void }
}

/** Lines for whoever looks into it later. Never throws and never blocks: lines that cannot be written are given up, and that is told. */
export interface AuditFile {
  /** One line, its end included. */
  append(line: string): void
  readonly state: 'up' | 'down'
  /** Resolves when all that waits now has been tried once. */
  flush(): Promise<void>
  /** Writes what waits, if it can be written now. */
  close(): Promise<void>
}

/** A small JSON value under a name; null deletes. */
export interface DiskRecord {
  readonly space: string
  readonly key: string
  readonly value: unknown
  /** By the wall; null = never. */
  readonly expiresAt: number | null
}

/** Numbers that are added to those under a name, whoever wrote them. A name is either a sum or a value. */
export interface DiskSum {
  readonly space: string
  readonly key: string
  readonly add: Readonly<Record<string, number>>
  readonly expiresAt: number | null
}

export interface DiskOptions {
  /** Of the answers. Money, jobs and key rests are in `records.db` in the same folder. */
  readonly path: string
  /** For the answers, with indexes, free room and the log beside the file. Below 1 MiB counts as 1 MiB. */
  readonly maxBytes: number
}

/** What survives a restart, for one process on one machine. Never throws for trouble with the files. */
export interface Disk {
  /** Null when it is not kept, expired even as a stale answer, or damaged, or when the file is away. */
  readEntry(key: string): Entry | null
  /** An entry that is too big for the file is not kept, nor is any while the file cannot be written to. */
  writeEntry(key: string, entry: Entry): void
  /** Returns how many; what cannot be reached now is purged when the file is back. */
  purge(filter: PurgeFilter): number
  /** All or nothing. Readable at once; in the file, and so safe from a kill, when it returns, if `records` is `up` then. */
  put(records: readonly (DiskRecord | DiskSum)[]): void
  /** True: all that was put until now survives a power cut, too. False: it cannot be written now. */
  secure(): Promise<boolean>
  get(space: string, key: string): unknown
  list(space: string): Iterable<readonly [key: string, value: unknown]>
  /** Calls back each time that the records in the file have been read and may differ from what was known before. */
  onRead(listener: () => void): void
  /** False: what the file holds is not known; only what was put by this process is. */
  readonly isRead: boolean
  /** `held`: another process owns the folder. */
  readonly records: 'up' | 'down' | 'held'
  readonly answers: 'up' | 'down'
  readonly entries: number
  readonly bytes: number
  close(): void
}

/**
 * What the shared store said. `away`: it could not answer in time; unless `sent` is false, it may have done what was asked
 * all the same.
 */
export type Shared<T> =
  | { readonly kind: 'known'; readonly value: T }
  | { readonly kind: 'away'; readonly sent: boolean }

/**
 * `down` until the first connection stands, and while it, or a part of it, does not answer. `refusing`: it answers and takes no
 * writes (out of memory, no permission, read-only, cannot persist); it may still be read.
 */
export type SharedState = 'up' | 'refusing' | 'down'

/** One atomic step in the store, in Lua: it may touch no keys but its own, all of which share a hash tag (`{…}`). */
export interface SharedScript {
  readonly lua: string
  readonly numberOfKeys: number
  /** Texts in the reply come as `bytes` (Buffer) or as `text` (string). Numbers are numbers, nil and false are null. */
  readonly replies: 'text' | 'bytes'
}

/** A script with what it is run on. */
export interface SharedStep {
  readonly script: SharedScript
  readonly keys: readonly string[]
  readonly args: readonly (string | number | Buffer)[]
}

export interface SharedListener {
  /** A hint and no more: anybody may have sent it, it may come twice, late or never. */
  onMessage(message: string): void
  /** The subscription stands, at first and again after each outage: what was published before may have been missed. */
  onSubscribed(): void
}

/**
 * A store that all replicas share. Nothing here throws, rejects or takes longer than the time limit of the store; while it is
 * down, calls are answered `away` at once. Keys and channels are given without the prefix of the installation.
 */
export interface SharedStore {
  get(key: string): Promise<Shared<Buffer | null>>
  set(key: string, value: Buffer | string, ttlMs: number): Promise<Shared<null>>
  /** Says how many there were. The keys may lie in different slots. */
  delete(keys: readonly string[]): Promise<Shared<number>>
  run(
    script: SharedScript,
    keys: readonly string[],
    args: readonly (string | number | Buffer)[],
  ): Promise<Shared<unknown>>
  publish(channel: string, message: string): Promise<Shared<null>>
  /** A channel as a script that publishes has to call it. */
  channelName(channel: string): string
  /** Survives outages. Several listeners of one channel are one subscription. */
  subscribe(channel: string, listener: SharedListener): { close(): void }
  readonly state: SharedState
  /** Why it is away or refuses, as of the last attempt; null while it is up. */
  readonly trouble: RedisTrouble | null
  /** The operator's file of certificates holds this now. True = something else than before, and new connections trust it. Throws when it is no good. */
  trust(pem: string): boolean
  /** Calls back at each change. Returns the way to stop listening. */
  onState(listener: (state: SharedState) => void): () => void
  close(): void
}
