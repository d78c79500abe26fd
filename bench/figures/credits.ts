/** P11: what eight replicas with one Redis pay for a stream of questions, beside a perfect cache. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { row, type Figure } from '../figure.ts'
import { pathOf, run } from '../program.ts'
import { startRedis } from '../redis.ts'

interface Paid {
  readonly calls: number
  readonly different: number
  readonly failed: number
}

export const credits: Figure = {
  ids: ['P11'],
  title: 'credits of eight replicas',
  async measure({ quick }) {
    const redis = await startRedis()
    if (!redis) return []
    const folder = mkdtempSync(join(tmpdir(), 'bench-'))
    try {
      const config = join(folder, 'fleet.yaml')
      const lines = [
        'listen: { port: 0 }',
        'admin: { port: 0 }',
        'upstream: { url: "http://127.0.0.1:9", keys: [{ name: main, secret: bench-key }], maxConcurrent: 1000 }',
        `redis: { url: "redis://127.0.0.1:${redis.port}", timeout: 2s }`,
        // Eight replicas and their upstream on one core are late now and then, which is not what is measured.
        'overload: { eventLoopDelay: 0s }',
      ]
      writeFileSync(config, `${lines.join('\n')}\n`)
      const questions = quick ? 10_000 : 100_000
      const args = [pathOf('bench/programs/fleet.ts'), '--config', config, '--questions', String(questions)]
      const { calls, different, failed } = JSON.parse(await run(process.execPath, args, 'server')) as Paid
      const what = `${questions} questions by Zipf's law of 8 replicas: credits / those of a perfect cache`
      return [row('P11', what, 'x', [calls / different], { most: 1.01 }, failed)]
    } finally {
      await redis.stop()
      rmSync(folder, { recursive: true })
    }
  },
}
