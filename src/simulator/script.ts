// Which call gets which step: scripts by match, and the convention of prompts that name their own steps.
// Steps are used up one per call; afterwards a call is answered as if nothing had been scripted.

import { matches, type Match } from './match.ts'
import type { RecordedRequest } from './request.ts'
import { stepsInPrompt, type StepDetail } from './step.ts'

interface Playing {
  readonly match: Match
  readonly steps: StepDetail[]
  played: number
}

export interface Scripts {
  readonly add: (match: Match, steps: readonly StepDetail[]) => void
  /** Uses up the step it returns; null when nothing is scripted for this call. */
  readonly next: (request: RecordedRequest, promptScripts: boolean) => StepDetail | null
  readonly clear: () => void
}

export function createScripts(): Scripts {
  let scripts: Playing[] = []
  const byPrompt = new Map<string, Playing>()

  function next(request: RecordedRequest, promptScripts: boolean): StepDetail | null {
    const script = bestFor(request)
    if (script !== undefined) return take(script)
    if (!promptScripts || request.prompt === null) return null
    const own = scriptOfPrompt(`${request.scraper} ${request.prompt}`, request.prompt)
    return own === null ? null : take(own)
  }

  function bestFor(request: RecordedRequest): Playing | undefined {
    let best: Playing | undefined
    for (const script of scripts) {
      if (!applies(script.match, request)) continue
      if (best === undefined || weight(script.match) > weight(best.match)) best = script
    }
    return best
  }

  function take(script: Playing): StepDetail | null {
    const step = script.steps[0]
    if (step === undefined) return null
    script.played += 1
    if (step.times !== 'forever' && script.played >= (step.times ?? 1)) {
      script.steps.shift()
      script.played = 0
    }
    if (script.steps.length === 0) scripts = scripts.filter((other) => other !== script)
    return step
  }

  function scriptOfPrompt(id: string, prompt: string): Playing | null {
    const known = byPrompt.get(id)
    if (known !== undefined) return known
    const steps = stepsInPrompt(prompt)
    if (steps === null) return null
    const script = { match: {}, steps: [...steps], played: 0 }
    byPrompt.set(id, script)
    return script
  }

  return {
    add: (match, steps) => {
      if (steps.length > 0) scripts.push({ match, steps: [...steps], played: 0 })
    },
    next,
    clear: () => {
      scripts = []
      byPrompt.clear()
    },
  }
}

function applies(match: Match, request: RecordedRequest): boolean {
  // A script about a scraper or prompt means questions; whoever wants to disturb polls says so.
  if (match.call === undefined && request.call === 'poll') return false
  return matches(request, match)
}

function weight(match: Match): number {
  return Object.values(match).filter((value) => value !== undefined).length
}
