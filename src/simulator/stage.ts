// Carries one request from its decision to its end: waits, holds, performs, sends, and notices the client leaving.

import type { IncomingMessage, ServerResponse } from 'node:http'
import { matches, type Match } from './match.ts'
import type { Recorder } from './recorder.ts'
import { detailOf, isCharged, type StepDetail } from './step.ts'
import type { Switches } from './switches.ts'
import type { Timers } from './timers.ts'
import type { Vendor, Work } from './vendor.ts'
import type { RecordedRequest } from './request.ts'
import { send } from './wire.ts'

export interface Stage {
  readonly play: (work: Work, req: IncomingMessage, res: ServerResponse) => void
  readonly release: (match: Match) => number
  /** The vendor dies: work that was held or under way is lost, and nothing of it is charged. */
  readonly abandon: () => void
}

interface Scene {
  readonly work: Work
  readonly req: IncomingMessage
  readonly res: ServerResponse
  /** What the vendor is doing: it matters when the client leaves. */
  phase: 'working' | 'hanging' | 'sending' | 'breaking'
  clientGone: boolean
  cancel: () => void
}

export function createStage(recorder: Recorder, vendor: Vendor, timers: Timers, switches: () => Switches): Stage {
  const held = new Map<RecordedRequest, () => void>()

  function play(work: Work, req: IncomingMessage, res: ServerResponse): void {
    const scene: Scene = { work, req, res, phase: 'working', clientGone: false, cancel: () => undefined }
    work.request.step = work.step.kind
    res.on('close', () => closed(scene))
    act(scene, work.step)
  }

  function act(scene: Scene, step: StepDetail): void {
    if (step.kind === 'hold' || step.kind === 'hang') {
      scene.phase = step.kind === 'hang' ? 'hanging' : 'working'
      return hold(scene, () => act(scene, detailOf(step.next ?? '200')))
    }
    scene.phase = 'working'
    scene.cancel = timers.after(vendor.delayMs(scene.work, step), () => conclude(scene, step))
  }

  function conclude(scene: Scene, step: StepDetail): void {
    const { work } = scene
    if (scene.clientGone && !isCharged(step)) return recorder.finish(work.request)
    const reply = vendor.perform(work, step)
    if (scene.clientGone) return recorder.finish(work.request)
    scene.phase = 'sending'
    work.request.status = send(
      {
        req: scene.req,
        res: scene.res,
        timers,
        breaking: () => {
          scene.phase = 'breaking'
        },
        stalled: (finish) => hold(scene, finish),
      },
      step,
      reply,
    )
    recorder.changed()
  }

  function hold(scene: Scene, goOn: () => void): void {
    const { request } = scene.work
    request.held = true
    held.set(request, () => {
      held.delete(request)
      request.held = false
      goOn()
    })
  }

  function closed(scene: Scene): void {
    const { request } = scene.work
    if (scene.phase === 'breaking' || scene.res.writableFinished) return recorder.finish(request)
    scene.clientGone = true
    request.closedEarly = true
    if (scene.phase === 'working' && switches().clientLeaves === 'charged') return recorder.changed()
    scene.cancel()
    held.delete(request)
    recorder.finish(request)
  }

  function release(match: Match): number {
    const chosen = [...held].filter(([request]) => matches(request, match))
    for (const [, goOn] of chosen) goOn()
    recorder.changed()
    return chosen.length
  }

  function abandon(): void {
    timers.clear()
    held.clear()
    for (const request of recorder.open) recorder.finish(request)
  }

  return { play, release, abandon }
}
