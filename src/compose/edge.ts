/** Builds the proxy port, and follows the files it depends on: certificates, authorities, secrets of upstream keys. */
import { followAuthority, followCertificate } from '../config/certificate.ts'
import type { Loaded } from '../config/load.ts'
import type { Config } from '../config/schema.ts'
import type { createServer } from '../http/server.ts'
import { followKeyFiles } from '../keys/key-files.ts'
import type { World } from '../ports.ts'
import type { createOverload } from '../resilience/overload.ts'
import type { Closing } from './closing.ts'
import type { InForce } from './in-force.ts'
import type { Stores } from './stores.ts'
import type { Telemetry } from './telemetry.ts'

export interface EdgeBase {
  readonly loaded: Loaded
  readonly world: World
  readonly telemetry: Telemetry
  readonly stores: Stores
  readonly inForce: InForce
  readonly overload: ReturnType<typeof createOverload>
  readonly createServer: typeof createServer
  /** By path: documents that need no token. */
  readonly published: ReadonlyMap<string, Buffer>
  readonly closing: Closing
}

export type Edge = ReturnType<typeof buildEdge>

export function buildEdge(base: EdgeBase) {
  const { loaded, world, telemetry, stores, overload, closing } = base
  const { generations } = base.inForce
  const { config } = loaded
  const { clock, random } = world
  const { log, emit, recorder } = telemetry
  const { store } = stores
  const certificates = {
    listen: certificateOf('listen', config.listen.tls),
    admin: certificateOf('admin', config.admin.tls),
  }
  const redisAuthority = store && followCa('redis', config.redis?.ca, store.trust)
  let upstreamAuthority = followUpstreamAuthority(config)
  let keyFiles = followKeys(loaded)
  closing.add(() => {
    keyFiles.close()
    upstreamAuthority?.close()
    redisAuthority?.close()
    certificates.listen?.close()
    certificates.admin?.close()
  })
  const server = base.createServer(config.listen, {
    certificate: certificates.listen,
    published: base.published,
    clock,
    random,
    emit,
    generations,
    overload,
    refused: recorder.refused,
  })

  return {
    server,
    certificates,
    /** The files that these settings name, in place of those before. */
    adopt(next: Loaded): void {
      keyFiles.close()
      keyFiles = followKeys(next)
      upstreamAuthority?.close()
      upstreamAuthority = followUpstreamAuthority(next.config)
    },
  }

  function certificateOf(name: 'listen' | 'admin', files: Config['listen']['tls']) {
    if (!files) return null
    return followCertificate({
      path: `${name}.tls`,
      files,
      watch: world.watchFile,
      clock,
      tell(news) {
        if (news.kind === 'kept') return log.warn('certificate kept', { port: name, because: news.because })
        log.info('certificate replaced', { port: name, valid_until: new Date(news.validUntil).toISOString() })
      },
    })
  }

  function followUpstreamAuthority({ upstream: { ca } }: Config): { close(): void } | null {
    return followCa('upstream', ca, (pem) => generations.current.connection.transport.trust(pem))
  }

  function followCa(name: 'upstream' | 'redis', file: string | undefined, trust: (pem: string) => boolean) {
    if (file === undefined) return null
    return followAuthority({
      path: `${name}.ca`,
      file,
      watch: world.watchFile,
      trust,
      tell(news) {
        if (news.kind === 'kept') return log.warn('certificate kept', { port: name, because: news.because })
        log.info('certificate replaced', { port: name })
      },
    })
  }

  function followKeys({ keyFiles }: Loaded): { close(): void } {
    return followKeyFiles({
      files: keyFiles,
      watch: world.watchFile,
      replace: (name, secret) => generations.current.keys.replace(name, secret),
      tell({ name, kind, secret }) {
        if (!secret) return log.warn('upstream key file is invalid', { key_name: name, because: kind })
        log.hide(secret.reveal())
        log.info('upstream key replaced', { key_name: name })
      },
    })
  }
}
