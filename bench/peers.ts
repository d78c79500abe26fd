/** The caches of the trade, one thread each, in front of the same upstream; those that are installed. */
import { chmodSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Contestant } from './figure.ts'
import { freePort, has, start, type Start } from './program.ts'

type Peer = (port: number, upstreamPort: number, folder: string) => Omit<Start, 'core' | 'port'>

const peers: Readonly<Record<string, Peer>> = {
  nginx(port, upstreamPort, folder) {
    const config = join(folder, 'nginx.conf')
    writeFileSync(
      config,
      `daemon off; master_process off; worker_processes 1; pid ${folder}/nginx.pid; error_log stderr;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path ${folder}/body; proxy_temp_path ${folder}/proxy; fastcgi_temp_path ${folder}/f; uwsgi_temp_path ${folder}/u; scgi_temp_path ${folder}/s;
  proxy_cache_path ${folder}/cache keys_zone=answers:64m max_size=1g inactive=1h;
  upstream answers { server 127.0.0.1:${upstreamPort}; keepalive 64; }
  server {
    listen 127.0.0.1:${port};
    location / { proxy_pass http://answers; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_cache answers; proxy_cache_valid 200 1h; }
  }
}
`,
    )
    return { command: 'nginx', args: ['-c', config, '-p', folder] }
  },
  varnish(port, upstreamPort, folder) {
    const config = join(folder, 'cache.vcl')
    writeFileSync(
      config,
      `vcl 4.1;
backend answers { .host = "127.0.0.1"; .port = "${upstreamPort}"; }
sub vcl_backend_response { set beresp.ttl = 1h; }
`,
    )
    const memory = ['-s', 'malloc,512m', '-n', join(folder, 'varnish')]
    return { command: 'varnishd', args: ['-F', '-a', `127.0.0.1:${port}`, '-f', config, ...memory] }
  },
  haproxy(port, upstreamPort, folder) {
    const config = join(folder, 'haproxy.cfg')
    writeFileSync(
      config,
      `global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
cache answers
  total-max-size 512
  max-object-size 100000
  max-age 3600
frontend proxy
  bind 127.0.0.1:${port}
  default_backend upstream
backend upstream
  http-request cache-use answers
  http-response set-header Cache-Control "max-age=3600"
  http-response cache-store answers
  server one 127.0.0.1:${upstreamPort}
`,
    )
    return { command: 'haproxy', args: ['-db', '-f', config] }
  },
}

const commands: Readonly<Record<string, string>> = { nginx: 'nginx', varnish: 'varnishd', haproxy: 'haproxy' }

export async function startPeers(upstreamPort: number): Promise<Contestant[]> {
  const started: Contestant[] = []
  for (const [name, peer] of Object.entries(peers)) {
    if (!has(commands[name] ?? name)) continue
    const folder = mkdtempSync(join(tmpdir(), 'bench-'))
    // Some give up the rights they were started with before they read it.
    chmodSync(folder, 0o755)
    const port = await freePort()
    started.push({ name, program: await start({ ...peer(port, upstreamPort, folder), core: 'server', port, folder }) })
  }
  return started
}
