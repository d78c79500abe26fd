/** `simulator`: only the simulated upstream, until it is told to stop. */
import { createSimulator } from '../simulator/simulator.ts'
import type { Io } from './io.ts'
import type { Host } from './host.ts'

const DEFAULT_PORT = 8081

/** Resolves to the exit code. */
export async function runSimulator(
  { port }: { readonly port: number | null },
  io: Pick<Io, 'stdout'>,
  host: Host,
): Promise<number> {
  const simulator = createSimulator({ port: port ?? DEFAULT_PORT, speedUp: 20 })
  const { url } = await simulator.start()
  io.stdout(
    [
      `The simulated upstream listens on ${url}. Any key will do, nothing costs anything, answers come 20 times faster.`,
      '',
      `  curl '${url}/scrapers/chatgpt?prompt=hello' -H 'X-API-Key: any'`,
      `  curl '${url}/__sim/ledger'`,
      '',
      'src/simulator/README.md says how to script failures.',
      '',
    ].join('\n'),
  )
  await new Promise<void>((resolve) => host.onStop(() => resolve()))
  await simulator.close()
  return 0
}
