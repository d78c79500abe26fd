/** A Redis of our own, for the figures that need one; null where none is installed. */
import { freePort, has, start, type Program } from './program.ts'

export async function startRedis(): Promise<Program | null> {
  if (!has('redis-server')) return null
  const port = await freePort()
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
  return start({ command: 'redis-server', args, core: 'load', port })
}
