/** `redis`: the store that replicas share. */
import * as z from 'zod'
import { count, duration, list, live, map, fieldMetadata, oneOrMore, restart, secret, text } from '../field.ts'

/** May hold a password, which is not printed. */
function redisUrl() {
  const error = 'expected a URL such as redis://127.0.0.1:6379'
  const schema = z.string({ error }).regex(/^rediss?:\/\/[^\s/]+(\/\d{0,4})?$/, { error })
  return schema.register(fieldMetadata, { kind: 'access' })
}

export const redis = map({
  url: restart(
    redisUrl().optional(),
    'URL of a single server; `rediss://` for TLS. Alternatives: `sentinel`, `cluster`.',
  ),
  sentinel: restart(
    map({
      urls: restart(list(redisUrl()), 'Addresses of the Sentinels.'),
      name: restart(text('a name'), "Name of the master in the Sentinels' configuration."),
    }).optional(),
    'A Redis master monitored by Sentinels.',
  ),
  cluster: restart(list(redisUrl()).optional(), 'Some nodes of a Redis Cluster; the others are discovered.'),
  ca: restart(text('the path of a file').optional(), 'Like `upstream.ca`, for `rediss://`. Reloaded when it changes.'),
  username: restart(text('a name').optional(), 'User name, if it is not in the URL.'),
  password: restart(secret(1).optional(), 'Password, if it is not in the URL; with Sentinel always here.'),
  database: restart(count(0, 9_999).prefault(0), 'Database number; 0 in a cluster.'),
  timeout: restart(
    duration(10, 10_000).prefault('250ms'),
    'Time limit per command. After it, the proxy continues without Redis.',
  ),
  prefix: restart(text('a prefix').prefault('slp:'), 'Prefix of all keys and channels.'),
  signingKey: live(
    oneOrMore(secret(16)),
    'Key that signs shared values, so that foreign values are rejected; a list allows rotation. Default: derived from the upstream keys.',
  ),
  whenAway: live(
    z.enum(['closed', 'open'], { error: 'expected closed or open, found {found}' }).prefault('closed'),
    'How budgets work while Redis is unavailable: `closed` = only a small allowance marked in advance may be spent, `open` = each replica counts alone.',
  ),
})
