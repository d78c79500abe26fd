/** What a look at one thing found, and what to do about it: a sentence each, for a person at a terminal. */

/** `fail`: it will not work; `warn`: it will, but not well; `note`: cannot be seen from here, and must be known. */
export type Status = 'ok' | 'warn' | 'fail' | 'note'

export interface Finding {
  /** Of the thing that was looked at. */
  readonly name: string
  readonly status: Status
  /** No secret in it. */
  readonly text: string
  /** What to do; null = nothing. */
  readonly advice: string | null
}

export function fine(name: string, text: string): Finding {
  return { name, status: 'ok', text, advice: null }
}

export function finding(status: Exclude<Status, 'ok'>, name: string, text: string, advice: string): Finding {
  return { name, status, text, advice }
}
