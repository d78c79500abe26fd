/** P10: from the start of the process to the line that says it listens, with a full disk cache and with none. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { row, type Figure } from '../figure.ts'
import { pathOf, run, startNode } from '../program.ts'
import { startProxy } from '../proxy.ts'

const MiB = 1024 ** 2
const GiB = 1024 ** 3

export const startUp: Figure = {
  ids: ['P10'],
  title: 'start with a full disk cache',
  async measure({ rounds, quick }) {
    const bytes = quick ? GiB / 16 : 2 * GiB
    const folder = mkdtempSync(join(tmpdir(), 'bench-'))
    try {
      const path = join(folder, 'cache.db')
      await run(
        process.execPath,
        [pathOf('bench/programs/full-disk.ts'), '--path', path, '--bytes', String(bytes)],
        'server',
      )
      const upstream = await startNode('bench/programs/upstream.ts', 'load')
      const [full, none]: [number[], number[]] = [[], []]
      for (let round = 0; round <= Math.min(rounds, 3); round += 1) {
        const took = await msToStart(upstream.port, [`cache: { disk: { path: ${path}, maxSize: ${bytes / MiB}MiB } }`])
        const tookWithout = await msToStart(upstream.port, [])
        if (round === 0) continue
        full.push(took)
        none.push(tookWithout)
      }
      await upstream.stop()
      return [
        row('P10', `start to ready, disk cache of ${bytes / GiB} GiB`, 'ms', full, { most: 1000 }),
        row('P10', 'start to ready, no disk cache', 'ms', none, null),
      ]
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  },
}

async function msToStart(upstreamPort: number, settings: readonly string[]): Promise<number> {
  const startedAt = performance.now()
  const proxy = await startProxy({ upstreamPort, settings })
  const ms = performance.now() - startedAt
  await proxy.stop()
  return ms
}
