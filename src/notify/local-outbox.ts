/** The outbox of one process: its events are claimed and kept in its own records. */
import type { Clock, Disk } from '../ports.ts'
import type { Outbox } from './notifier.ts'

const SPACE = 'notified'

export function createLocalOutbox(records: Pick<Disk, 'put' | 'get' | 'list'>, clock: Pick<Clock, 'wall'>): Outbox {
  return {
    async claim(name, ttlMs) {
      if (records.get(SPACE, name) !== null) return false
      records.put([{ space: SPACE, key: name, value: true, expiresAt: clock.wall() + ttlMs }])
      return true
    },
    put: (list) => records.put(list),
    waiting: async () => [...records.list('notify')],
  }
}
