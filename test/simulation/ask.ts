/** One request of a caller, from when it is asked until the caller knows. */
import type { ProxyRequest } from '../../src/model.ts'
import type { ClientPlan } from './plan.ts'

export interface Ask {
  readonly request: ProxyRequest
  readonly client: ClientPlan
  readonly kind: 'answer' | 'submit' | 'poll'
  readonly question: string
  readonly scraper: string
  readonly replica: number
  readonly life: number
  readonly askedAt: number
  /** By when something must have come. */
  readonly deadlineAt: number
  /** Its answer may come from others, and be given to others. */
  readonly isShared: boolean
  /** Takes a job id instead of an answer. */
  readonly isAsync: boolean
  isGone: boolean
  /** Answered, or lost with its replica. */
  isOver: boolean
}
