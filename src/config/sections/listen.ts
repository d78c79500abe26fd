/** `listen`: the proxy port. */
import * as z from 'zod'
import { count, duration, flag, hostName, live, map, restart, text } from '../field.ts'
import { tls } from './tls.ts'

export const listen = map({
  host: restart(text('a host name or address').prefault('127.0.0.1'), 'Address on which the proxy listens.'),
  port: restart(
    count(0, 65_535).prefault(8080),
    'Port on which the proxy listens; 0 = any free port, named in the log line "listening".',
  ),
  reusePort: restart(
    flag().prefault(false),
    'Lets several processes on this machine listen on the same port. Each needs its own admin port.',
  ),
  hosts: live(
    z.array(hostName(), { error: 'expected a list of host names, found {found}' }).prefault([]),
    'Additional names that callers without a token may use in the `Host` header when `host` is a loopback address: for a load balancer on the same machine that passes the name on.',
  ),
  maxConnections: restart(
    count(1, 1_000_000).prefault(20_000),
    'Maximum number of client connections. Further connections get 503 OVERLOADED and are closed.',
  ),
  keepAlive: restart(
    duration(1_000, 86_400_000).prefault('75s'),
    'How long an idle client connection is kept open. Must be longer than the idle timeout of the load balancer in front (table in docs/several-replicas.md).',
  ),
  tls: tls(),
})
