/** `admin`: the admin port. */
import { count, live, map, restart, secret, text } from '../field.ts'
import { tls } from './tls.ts'

export const admin = map({
  host: restart(
    text('a host name or address').prefault('127.0.0.1'),
    'Address of the admin port (metrics, health, status).',
  ),
  port: restart(count(0, 65_535).prefault(9464), 'Admin port; 0 = any free port.'),
  token: live(
    secret(16).optional(),
    'Bearer token for the admin port, at least 16 characters. Required unless the admin port listens on loopback.',
  ),
  tls: tls(),
})
