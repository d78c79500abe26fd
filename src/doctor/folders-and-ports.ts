/** Looks at where the proxy will write and listen: folders, room on the disk, ports. Leaves nothing behind. */
import { randomUUID } from 'node:crypto'
import { existsSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { dirname, join, resolve } from 'node:path'
import type { Config } from '../config/schema.ts'
import { formatSize } from '../config/units.ts'
import { exchange } from './exchange.ts'
import { fine, finding, type Finding } from './finding.ts'

const MIB = 1024 ** 2
/** Kinds of file systems (statfs) whose locks and shared memory SQLite cannot rely on: NFS, SMB, CIFS, FUSE. */
const REMOTE_KINDS = new Set([0x6969, 0x517b, 0xff534d42, 0xfe534d42, 0x65735546])
const PATIENCE_MS = 2_000

export async function examineFoldersAndPorts(config: Config, cwd: string): Promise<Finding[]> {
  const { cache, audit, redis } = config
  return [
    ...(cache.disk && !redis
      ? [aboutFolder('disk cache', resolve(cwd, cache.disk.path), cache.disk.maxSize, true)]
      : []),
    // The file, and the one that was set aside.
    ...(audit ? [aboutFolder('audit file', resolve(cwd, audit.path), 2 * audit.maxSize, false)] : []),
    await aboutPort('listen', config.listen, '/'),
    await aboutPort('admin', config.admin, '/healthz'),
  ]
}

/** The file itself is not touched: a running proxy holds it by a lock. */
function aboutFolder(name: string, path: string, maxBytes: number, isDatabase: boolean): Finding {
  const folder = nearestFolder(dirname(path))
  const trial = join(folder, `.doctor-${randomUUID()}`)
  try {
    writeFileSync(trial, 'x')
    rmSync(trial)
  } catch (error) {
    const { code = 'unknown' } = error as { readonly code?: string }
    const advice = 'give the folder to the user that runs the proxy, mount a volume there, or set another path'
    return finding('fail', name, `${folder} cannot be written to (${code})`, advice)
  }
  const { bavail, bsize, type } = statfsSync(folder)
  if (isDatabase && REMOTE_KINDS.has(type))
    return finding(
      'fail',
      name,
      `${folder} is on another machine, where a database cannot be kept safely`,
      'set a path on a local disk',
    )
  const own = ['', '-wal', '.1'].reduce(
    (sum, tail) => sum + (statSync(path + tail, { throwIfNoEntry: false })?.size ?? 0),
    0,
  )
  const freeBytes = bavail * bsize + own
  const text = `${path} can be written; it may take ${formatSize(maxBytes)}, and ${Math.floor(freeBytes / MIB)} MiB are free`
  if (freeBytes >= maxBytes) return fine(name, text)
  return finding('warn', name, text, 'lower its maxSize, or give it a larger disk')
}

/** The one that is there; those below it are made at the start. */
function nearestFolder(path: string): string {
  return existsSync(path) || dirname(path) === path ? path : nearestFolder(dirname(path))
}

interface Port {
  readonly host: string
  readonly port: number
  readonly reusePort?: boolean
  readonly tls?: object | undefined
}

async function aboutPort(name: 'listen' | 'admin', asked: Port, path: string): Promise<Finding> {
  const { host, port, reusePort = false } = asked
  const place = `${host}:${port}`
  const thing = `${name} port`
  const code = await listeningFails(host, port, reusePort)
  if (code === null) return fine(thing, `${place} is free`)
  if (code === 'EADDRINUSE' && (await isProxyAt(asked, path)))
    return fine(thing, `${place} is in use, by a proxy that runs already`)
  if (code === 'EADDRINUSE')
    return finding('fail', thing, `${place} is in use`, `stop what listens there, or set another ${name}.port`)
  if (code === 'EACCES')
    return finding(
      'fail',
      thing,
      `${place} is not for this user`,
      `set a ${name}.port from 1024 on, or give it CAP_NET_BIND_SERVICE`,
    )
  return finding(
    'fail',
    thing,
    `${place} cannot be listened on (${code})`,
    `set ${name}.host to an address of this machine`,
  )
}

/** Null = it works. */
function listeningFails(host: string, port: number, reusePort: boolean): Promise<string | null> {
  return new Promise((done) => {
    const server = createServer()
    server.once('error', (error: Error & { code?: string }) => done(error.code ?? 'unknown'))
    server.listen({ host, port, reusePort }, () => server.close(() => done(null)))
  })
}

/** Both ports of ours answer in words of their own. */
async function isProxyAt({ host, port, tls }: Port, path: string): Promise<boolean> {
  const near = /^(0\.0\.0\.0|::)$/.test(host) ? '127.0.0.1' : host.includes(':') ? `[${host}]` : host
  const url = `http${tls ? 's' : ''}://${near}:${port}${path}`
  try {
    const { headers, body } = await exchange({ url, limitMs: PATIENCE_MS, over: null })
    return 'x-proxy-code' in headers || body === '{"status":"ok"}'
  } catch {
    return false
  }
}
