/**
 * The load of a figure, where wrk cannot make it or is not there: keep-alive connections with one request each under way.
 * Counts every request and every failure, and times each one: from when it was due where `perSecond` is given, else from
 * when it was sent. Takes its orders as JSON on standard input, prints one line of JSON.
 */
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import type { LoadResult, Order } from '../load.ts'

const order = JSON.parse(await text(process.stdin)) as Order
const { port, connections, seconds = null, requests = null, perSecond = null, question } = order
const endsAt = seconds === null ? Infinity : performance.now() + seconds * 1000
const startedAt = performance.now()
const latencies: number[] = []
let sent = 0
let failed = 0
let lastAt = 0
const statuses = new Map<number, number>()

await Promise.all(Array.from({ length: connections }, connection))
latencies.sort((a, b) => a - b)
const elapsedMs = performance.now() - startedAt
const result: LoadResult = {
  requests: latencies.length,
  failed,
  perSecond: (latencies.length * 1000) / elapsedMs,
  p50Ms: percentile(0.5),
  p99Ms: percentile(0.99),
  maxMs: percentile(1),
  lastAt,
  statuses: Object.fromEntries(statuses),
}
process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0))

function percentile(share: number): number {
  return latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))] ?? 0
}

/** When the next request is due; null = no more. */
function next(): number | null {
  const now = performance.now()
  if (requests !== null && sent >= requests) return null
  const at = perSecond === null ? now : startedAt + (sent * 1000) / perSecond
  if (at >= endsAt) return null
  return at
}

/** One connection asks again and again until there is nothing left to ask. */
function connection(): Promise<void> {
  return new Promise((resolve) => {
    let socket: Socket | null = null
    let dueAt = 0
    let pending = ''
    let bodyLeft = -1
    let answered = false
    ask()

    function ask(): void {
      const at = next()
      if (at === null) return end()
      sent += 1
      dueAt = at
      const number = order.start + sent - 1
      const wait = at - performance.now()
      if (wait > 1) setTimeout(() => write(number), wait)
      else write(number)
    }

    function write(number: number): void {
      answered = false
      socket ??= open()
      socket.write(
        question.replaceAll('%d', String(number % order.count)).replaceAll('%c', String(number % order.clients)),
      )
    }

    function open(): Socket {
      const opened = connect(port, '127.0.0.1')
      opened.setNoDelay(true)
      opened.on('data', read)
      opened.on('error', () => undefined)
      opened.on('close', () => {
        if (socket !== opened) return
        socket = null
        if (answered) return
        failed += 1
        done()
      })
      return opened
    }

    /** Our servers frame by Content-Length; heads come whole or are put together. */
    function read(bytes: Buffer): void {
      if (bodyLeft < 0) {
        const from = pending === '' ? bytes.indexOf('\r\n\r\n') : -2
        if (from < 0) {
          pending += bytes.toString('latin1')
          const end = pending.indexOf('\r\n\r\n')
          if (end < 0) return
          const head = pending.slice(0, end)
          bodyLeft = lengthOf(head) - (pending.length - end - 4)
          pending = ''
        } else {
          bodyLeft = lengthOf(bytes.toString('latin1', 0, from)) - (bytes.length - from - 4)
        }
      } else bodyLeft -= bytes.length
      if (bodyLeft > 0) return
      bodyLeft = -1
      answered = true
      lastAt = Date.now()
      latencies.push(performance.now() - dueAt)
      done()
    }

    function lengthOf(head: string): number {
      const status = Number(head.slice(9, 12))
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
      if (status !== 200 && !order.anyStatus) failed += 1
      return Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0)
    }

    function done(): void {
      if (order.once) end()
      else ask()
    }

    function end(): void {
      const last = socket
      socket = null
      last?.destroy()
      resolve()
    }
  })
}
