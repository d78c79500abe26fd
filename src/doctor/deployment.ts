/** What the settings ask of those around the proxy, which cannot be seen from here: who is in front of it, and who stops it. */
import { isLoopback } from '../addresses.ts'
import type { Config } from '../config/schema.ts'
import { formatDuration } from '../config/units.ts'
import { finding, type Finding } from './finding.ts'

const MARGIN_S = 20

export function examineDeployment(config: Config): Finding[] {
  return [aboutPatience(config), aboutStopping(config), ...aboutNetwork(config)]
}

function aboutPatience({ retry, clients, listen }: Config): Finding {
  const deadlines = [retry.deadline, ...Object.values(clients).map((client) => client.retry?.deadline ?? 0)]
  const seconds = Math.ceil(Math.max(...deadlines) / 1000)
  const idle = seconds + MARGIN_S
  const text = `an answer may take ${seconds} s, in which nothing is sent`
  const advice = `let whatever is in front of it wait ${idle} s (nginx: proxy_read_timeout, HAProxy: timeout server, AWS: idle timeout, Envoy: route timeout), and callers as long, or with X-Request-Timeout; an idle connection is closed after ${formatDuration(listen.keepAlive)}: set listen.keepAlive longer than it keeps its own`
  return finding('note', 'load balancer', text, advice)
}

function aboutStopping({ shutdown }: Config): Finding {
  const seconds = Math.ceil((shutdown.readinessDelay + shutdown.grace) / 1000)
  const text = `stopping may take ${seconds} s`
  const advice = `let the supervisor wait ${seconds + MARGIN_S} s (systemd: TimeoutStopSec, Kubernetes: terminationGracePeriodSeconds, Compose: stop_grace_period)`
  return finding('note', 'supervisor', text, advice)
}

function aboutNetwork({ listen, admin }: Config): Finding[] {
  const reached = Object.entries({ listen, admin }).filter(([, { host, tls }]) => !tls && !isLoopback(host))
  if (reached.length === 0) return []
  const text = `${reached.map(([name]) => name).join(' and ')}: reached from other machines, in plain HTTP`
  return [finding('note', 'network', text, 'keep it in a private network, set its tls, or put TLS in front of it')]
}
