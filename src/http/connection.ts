/** What is known about an open connection, and how to hear of its end. */
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { ProxyError } from '../errors.ts'
import type { ProxyRequest } from '../model.ts'
import { createLinkedList, type LinkedList } from '../linked-list.ts'

export interface Connection {
  /** Requests that have not been answered. */
  open: number
  /** Nothing more is read from it. */
  closing: boolean
  /** What follows the open requests is not HTTP. */
  broken: boolean
  /** Ends the body that is being read; null = none is. */
  failBody: ((refusal: ProxyError) => void) | null
  /** The answer that is the last in line. */
  last: ServerResponse | null
  /** How much it had brought when its last request was read. */
  seenBytes: number
  /** One more than there may be. */
  readonly isExcess: boolean
  /** Those to be told when it is gone; null = nobody yet. */
  waiting: LinkedList<() => void> | null
}

export function newConnection(isExcess: boolean): Connection {
  return {
    open: 0,
    closing: false,
    broken: false,
    failBody: null,
    last: null,
    seenBytes: 0,
    isExcess,
    waiting: null,
  }
}

/**
 * The way to hear of a caller who hangs up: costs nothing until somebody listens. The connection tells, because an answer that is
 * not yet the next in line hears of nothing.
 */
export function watch(socket: Socket, connection: Connection, outgoing: ServerResponse): ProxyRequest['onGone'] {
  return (listener) => {
    const closed = (): void => {
      if (place.member === null) return
      place.leave()
      if (!outgoing.writableEnded) listener()
    }
    connection.waiting ??= createLinkedList()
    const place = connection.waiting.add(closed)
    if (socket.destroyed) queueMicrotask(closed)
    return () => place.leave()
  }
}
