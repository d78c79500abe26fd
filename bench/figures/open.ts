/** P6 and P7: ten thousand different questions open at a time, and ten thousand askers of one. */
import { median, row, type Figure, type Options, type Row } from '../figure.ts'
import { asking, own } from '../load.ts'
import { mostFiles, pause, type Program, startNode } from '../program.ts'
import { startProxy } from '../proxy.ts'

const MANY = 10_000
/** Each opens two connections, and one core must do it beside what it answers. */
const PER_SECOND = 1_000

export const open: Figure = {
  ids: ['P6', 'P7'],
  title: 'ten thousand open questions',
  async measure(options) {
    return [...(await differentQuestions(options)), ...(await oneQuestion(options))]
  },
}

async function differentQuestions({ quick }: Options): Promise<Row[]> {
  // Each has a socket to its caller and one to upstream.
  const count = Math.min(MANY, Math.floor((mostFiles() - 500) / 2))
  const openS = quick ? 30 : 60
  const upstream = await startNode('bench/programs/upstream.ts', 'load', ['--delay', String(openS * 1000)])
  const proxy = await startProxy({ upstreamPort: upstream.port })
  // The lag that the process reports is that since it was asked last.
  await proxy.metric('nodejs_eventloop_lag_p99_seconds')
  const ours = await opened(proxy, count, openS)
  const lagMs = (await proxy.metric('nodejs_eventloop_lag_p99_seconds')) * 1000
  await proxy.stop()
  const stock = await startNode('bench/programs/stock.ts', 'server', ['--target', `http://127.0.0.1:${upstream.port}`])
  const theirs = await opened(stock, count, openS)
  await Promise.all([stock.stop(), upstream.stop()])
  const what = `${count} open questions`
  return [
    row('P6', `${what}: memory of each`, 'B', [ours.bytes], { most: 25_600 }, ours.lost),
    row('P6', `${what}: memory of each, stock http-proxy-3`, 'B', [theirs.bytes], null, theirs.lost),
    row('P6', `${what}: event-loop lag, p99`, 'ms', [lagMs], { most: 50 }, ours.lost),
    row('P6', `${what}: failures`, 'n', [ours.lost], { most: 0 }),
  ]
}

/** All are open at half of the time. */
async function opened(program: Program, count: number, openS: number): Promise<{ bytes: number; lost: number }> {
  await pause(1_000)
  const before = program.residentBytes()
  const { port } = program
  const order = { port, connections: count, requests: count, perSecond: PER_SECOND, once: true, ...asking(count) }
  const asked = own(order)
  await pause((openS / 2) * 1000)
  const bytes = (program.residentBytes() - before) / count
  const { failed, requests } = await asked
  return { bytes, lost: failed + (count - requests) }
}

async function oneQuestion({ quick, rounds }: Options): Promise<Row[]> {
  const count = Math.min(MANY, mostFiles() - 500)
  const [calls, lates]: [number[], number[]] = [[], []]
  let lost = 0
  for (let round = 0; round < (quick ? 1 : Math.min(3, rounds)); round += 1) {
    const upstream = await startNode('bench/programs/upstream.ts', 'load', ['--delay', '10000'])
    const proxy = await startProxy({ upstreamPort: upstream.port })
    const told = async (what: string): Promise<number> =>
      Number(await (await fetch(`http://127.0.0.1:${upstream.port}/${what}`)).text())
    const result = await own({ port: proxy.port, connections: count, requests: count, once: true, ...asking(1) })
    calls.push(await told('__calls'))
    lates.push(result.lastAt - (await told('__last')))
    lost += result.failed + (count - result.requests)
    await Promise.all([proxy.stop(), upstream.stop()])
  }
  return [
    row('P7', `${count} askers of one question: upstream calls`, 'n', [Math.max(...calls)], { most: 1 }, lost),
    row('P7', `${count} askers of one question: answer to the last one`, 'ms', lates, { most: 1000 }, lost),
    row('P7', `${count} askers of one question: of it per asker`, 'us', [(median(lates) * 1000) / count], null, lost),
  ]
}
