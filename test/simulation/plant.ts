/** Looks for a planted bug: `src/` with the bug in it, in a folder of its own, simulated seed by seed until something breaks. */
import { fork } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Bug } from './bugs.ts'
import { bugs } from './bugs.ts'
import { planOf } from './plan.ts'
import { simulate } from './simulation.ts'

export interface Caught {
  /** Null = it was not noticed. */
  readonly invariant: string | null
  readonly what: string
  readonly seed: number
  readonly requests: number
}

export const MOST_REQUESTS = 100_000
const REQUESTS_OF_A_SEED = 1_000
/** A bug may well keep a simulation from ending. */
const LONGEST_MS = 600_000
const root = fileURLToPath(new URL('../../', import.meta.url))

/** The text with the bug in it. Throws where the source has changed. */
export function planted({ file, find, replace }: Bug): string {
  const text = readFileSync(join(root, 'src', file), 'utf8')
  const [before, after, ...more] = text.split(find)
  if (before === undefined || after === undefined || more.length > 0) {
    throw new Error(`${file} holds this ${more.length + (after === undefined ? 0 : 1)} times instead of once: ${find}`)
  }
  return before + replace + after
}

export async function hunt(bug: Bug): Promise<Caught> {
  const folder = mkdtempSync(join(tmpdir(), 'planted-'))
  try {
    for (const part of ['src', 'test/simulation', 'package.json'])
      cpSync(join(root, part), join(folder, part), { recursive: true })
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
    writeFileSync(join(folder, 'src', bug.file), planted(bug))
    return await new Promise<Caught>((resolve, reject) => {
      const child = fork(join(folder, 'test/simulation/plant.ts'), [String(bugs.indexOf(bug))], {
        stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
        execArgv: [],
      })
      let trouble = ''
      const timer = setTimeout(() => child.kill('SIGKILL'), LONGEST_MS)
      child.stderr?.on('data', (text: Buffer) => void (trouble += text.toString()))
      child.on('message', (caught: Caught) => resolve(caught))
      child.on('error', reject)
      child.on('exit', () => {
        clearTimeout(timer)
        resolve({ invariant: 'broke down', what: trouble.slice(0, 2_000), seed: 0, requests: 0 })
      })
    })
  } finally {
    rmSync(folder, { recursive: true })
  }
}

async function look(bug: Bug): Promise<Caught> {
  let requests = 0
  for (let seed = 1; requests < MOST_REQUESTS && process.connected; seed += 1) {
    if (bug.needs && !bug.needs(planOf(seed, REQUESTS_OF_A_SEED))) continue
    const result = await simulate(seed, { requests: REQUESTS_OF_A_SEED })
    requests += result.requests
    if (result.broken) return { invariant: result.broken.invariant, what: result.broken.what, seed, requests }
  }
  return { invariant: null, what: '', seed: 0, requests }
}

if (process.send && process.argv[1]?.endsWith('plant.ts')) {
  const bug = bugs[Number(process.argv[2])]
  if (bug) process.send(await look(bug), undefined, {}, () => process.disconnect())
}
