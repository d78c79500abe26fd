/**
 * The process of one replica, as the machine sees it: it can be killed at any effect it has, stopped and continued, and its wall clock
 * can be set. What reaches it (timers, replies, messages) reaches it through `deliver`; what it does is done through `act`. A killed
 * process does nothing more and hears nothing more, and promises made to it never settle.
 */
import type { Clock, Timer } from '../../src/ports.ts'

export interface Process {
  readonly clock: Clock
  readonly isAlive: boolean
  /** True = the effect takes place. False = the process is dead, or dies right here, before it. */
  act(): boolean
  /** Runs `job` in the process after so long, or when it is continued; never, if it is dead then. */
  deliver(ms: number, job: () => void): Timer
  kill(): void
  /** Dies before the effect that comes after so many others. */
  killAfter(effects: number): void
  /** Stops for so long, as SIGSTOP does: nothing is lost. */
  pause(ms: number): void
  stepWall(ms: number): void
  /** Until when it has been stopped, at the latest. */
  readonly pausedUntil: number
  /** Timers that it has set. */
  readonly timers: number
}

export function createProcess(time: Pick<Clock, 'now' | 'after'>, died: () => void): Process {
  let isAlive = true
  let fatal = Number.POSITIVE_INFINITY
  let pausedUntil = Number.NEGATIVE_INFINITY
  let wallAheadMs = 0
  let timers = 0

  return {
    clock: {
      now: time.now,
      wall: () => Math.floor(time.now() + wallAheadMs),
      after(ms, job) {
        timers += 1
        let isSet = true
        const end = (): void => {
          if (isSet) timers -= 1
          isSet = false
        }
        const timer = deliver(ms, () => {
          end()
          job()
        })
        return {
          cancel() {
            end()
            timer.cancel()
          },
        }
      },
    },
    get isAlive() {
      return isAlive
    },
    act() {
      if (!isAlive) return false
      fatal -= 1
      if (fatal >= 0) return true
      kill()
      return false
    },
    deliver,
    kill,
    killAfter: (effects) => void (fatal = effects),
    pause: (ms) => void (pausedUntil = Math.max(pausedUntil, time.now() + ms)),
    stepWall: (ms) => void (wallAheadMs += ms),
    get pausedUntil() {
      return pausedUntil
    },
    get timers() {
      return timers
    },
  }

  function deliver(ms: number, job: () => void): Timer {
    let timer = time.after(ms, arrive)
    return { cancel: () => timer.cancel() }

    function arrive(): void {
      if (!isAlive) return
      if (time.now() < pausedUntil) timer = time.after(pausedUntil - time.now(), arrive)
      else job()
    }
  }

  function kill(): void {
    if (!isAlive) return
    isAlive = false
    died()
  }
}
