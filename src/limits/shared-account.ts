/**
 * The slice of one client's credits that this replica has leased: set aside, marked, and asked for when it runs short. One command at a
 * time asks for all that wait.
 */
import type { Corrected } from './budget.ts'
import { type AccountPorts, createSharedBook, type LimitsOfRun, type SharedBook } from './shared-book.ts'
import { type Asked, freeOf, releaseFloat, type Reply, type Run, shortOf, type Waiting } from './shared-run.ts'

export interface SharedAccount extends Omit<SharedBook, 'send' | 'restored'> {
  /** From the slice, without asking as long as there is enough in it. It may be taken back until it is marked. */
  setAside(run: Run, credits: number): Promise<Asked>
  /** Credits that were set aside may be charged from now on. */
  mark(run: Run, credits: number): Promise<Asked>
  /** Marks so much in advance, as far as there is so much. */
  setFloat(of: Run, credits: number): Promise<void>
  /** What has been spent this month, whatever was counted, from what was. Null = the store is away. */
  correct(spentOf: (beforeCredits: number) => number): Promise<Corrected | null>
}

const EVERYTHING = 1e12

export function createSharedAccount(name: string, limits: LimitsOfRun, ports: AccountPorts): SharedAccount {
  const book = createSharedBook(name, limits, ports)

  return { ...book, setAside, mark: (of, credits) => enqueue(of, credits, true), setFloat, correct }

  function setAside(of: Run, credits: number): Promise<Asked> {
    if (freeOf(of) < credits) return enqueue(of, credits, false)
    of.heldCredits += credits
    return Promise.resolve('done')
  }

  function enqueue(of: Run, credits: number, isMark: boolean): Promise<Asked> {
    return new Promise((resolve) => {
      of.waiting.push({ credits, isMark, resolve })
      if (of.waiting.length === 1) void Promise.resolve().then(() => askFor(of))
    })
  }

  /** One command at a time, for all that wait. */
  async function askFor(of: Run): Promise<void> {
    for (let isAgain = false; of.waiting.length > 0;) {
      const asking = [...of.waiting]
      const sum = (isMark: boolean): number =>
        asking.reduce((credits, one) => (one.isMark === isMark ? credits + one.credits : credits), 0)
      const marks = sum(true)
      const need = Math.max(0, of.heldCredits - of.markedCredits - marks) + sum(false)
      const reply = await book.send(of, { marks, need })
      const refused = share(of, asking, reply, marks)
      // A store that has lost data grants nothing before it is told what is known here.
      const isToldAnew = await book.restored()
      const over: readonly Waiting[] = isToldAnew && !isAgain ? asking.filter((one) => !refused.includes(one)) : asking
      isAgain = over.length < asking.length
      of.waiting.splice(0, asking.length, ...asking.filter((one) => !over.includes(one)))
      const why = !reply ? 'away' : reply.isSettled ? 'exhausted' : 'recovering'
      for (const one of over) one.resolve(refused.includes(one) ? why : 'done')
    }
  }

  /** First come, first served. Returns those who get nothing. */
  function share(of: Run, asking: readonly Waiting[], reply: Reply | null, marks: number): readonly Waiting[] {
    let marked = reply?.marked ?? marks
    of.own[3] += marked
    const refused = asking.filter(({ credits, isMark }) => {
      if (isMark && (!reply || marked < credits)) return true
      // What is set aside and not marked may be taken back, and is asked for again when it is marked: so may this.
      if (!isMark && -shortOf(of) < credits) return true
      if (isMark) marked -= credits
      if (isMark) of.markedCredits += credits
      else of.heldCredits += credits
      return false
    })
    of.own[4] += marked
    return refused
  }

  async function setFloat(of: Run, credits: number): Promise<void> {
    const more = Math.min(credits - of.floatCredits, freeOf(of))
    if (more <= 0) return releaseFloat(of, Math.max(0, of.floatCredits - credits))
    if ((await enqueue(of, more, true)) !== 'done') return
    of.markedCredits -= more
    of.floatCredits += more
  }

  async function correct(spentOf: (beforeCredits: number) => number): Promise<Corrected | null> {
    const today = book.run()
    if (!(await book.send(today, { wantsBook: true }))) return null
    const beforeCredits = book.used('month').spentCredits
    const spentCredits = Math.max(0, spentOf(beforeCredits))
    const missing = Math.max(0, spentCredits - beforeCredits)
    today.own[2] += missing
    today.own[3] += missing
    // No day gives back more than was spent in it.
    let back = Math.max(0, beforeCredits - spentCredits)
    for (const [dayId, spent] of [...book.spentByDay()].toReversed()) {
      const credits = Math.min(back, Math.max(0, spent))
      if (credits > 0) book.run(false, dayId).own[5] += credits
      back -= credits
    }
    await book.tell(true)
    const { perDay = null, perMonth = null } = limits(true) ?? {}
    // Takes back what all have leased and not marked: there may be less now.
    if (perDay !== null || perMonth !== null) await book.send(today, { need: EVERYTHING })
    return { beforeCredits, spentCredits: spentCredits + back }
  }
}
