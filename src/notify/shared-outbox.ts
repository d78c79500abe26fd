/**
 * The outbox of one of several processes: an event is claimed in the shared store, so that one of them tells of it. What is being sent is
 * kept by the process that claimed it. While the store is away each process tells for itself: twice is better than never.
 */
import { luaScript } from '../lua.ts'
import type { SharedStore } from '../ports.ts'
import type { Outbox } from './notifier.ts'

const claimScript = luaScript('claim.lua', import.meta.url, 1)

export function createSharedOutbox(store: Pick<SharedStore, 'run'>, own: Outbox): Outbox {
  return {
    async claim(name, ttlMs) {
      const said = await store.run(claimScript, [`notified:${name}`], [ttlMs])
      return said.kind === 'away' ? own.claim(name, ttlMs) : said.value === 1
    },
    put: own.put,
    waiting: own.waiting,
  }
}
