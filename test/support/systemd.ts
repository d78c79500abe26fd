/**
 * A systemd of the test's own, as process 1 of its namespaces, with none of this machine's units: only the targets that a service needs, and those the test
 * gives it. It shares the network with the test. Needs root on Linux with systemd and a cgroup2 file system.
 */
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  rmdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { start, type Program } from './process.ts'

export interface Systemd {
  /** Runs a command beside it; `status` is its exit code. */
  run(...command: readonly string[]): {
    readonly status: number | null
    readonly stdout: string
    readonly stderr: string
  }
  /** The same, not waited for. */
  start(...command: readonly string[]): Program
}

export interface Booted {
  /** By name; those of services are enabled, so that they start with it. */
  readonly units: Readonly<Record<string, string>>
  /** Folders and files of this machine, and where they are to be seen; all else below `/opt` is empty. */
  readonly mounts: Readonly<Record<string, string>>
}

const program = '/lib/systemd/systemd'
const unshared = ['unshare', '--cgroup', '--mount', '--pid', '--uts', '--ipc', '--fork', '--kill-child', '--mount-proc']
const targets = [
  'sysinit',
  'basic',
  'shutdown',
  'multi-user',
  'network-online',
  'umount',
  'final',
  'reboot',
  'poweroff',
]

/** Null = this machine can; else why it cannot. */
export function whyNoSystemd(): string | null {
  if (process.getuid?.() !== 0) return 'needs root'
  if (!existsSync(program)) return 'needs systemd'
  const mounted = groups()
  if (mounted === null) return 'needs a cgroup2 file system'
  try {
    const probe = join(mounted, `scrapellm-proxy-${process.pid}-probe`)
    mkdirSync(probe)
    rmdirSync(probe)
  } catch {
    return 'needs a cgroup2 file system that it may write to'
  }
  const [unshare = '', ...options] = unshared
  return spawnSync(unshare, [...options, 'true']).status === 0 ? null : 'needs namespaces of its own'
}

let booted = 0

export async function aSystemd(t: Test, { units, mounts }: Booted): Promise<Systemd> {
  const folder = mkdtempSync(join(tmpdir(), 'systemd-'))
  mkdirSync(join(folder, 'units/multi-user.target.wants'), { recursive: true })
  const target = '[Unit]\nDefaultDependencies=no\n'
  for (const name of targets) writeFileSync(join(folder, 'units', `${name}.target`), target)
  for (const [name, text] of Object.entries(units)) {
    mkdirSync(join(folder, 'units', name, '..'), { recursive: true })
    writeFileSync(join(folder, 'units', name), text)
    if (name.endsWith('.service')) symlinkSync(`../${name}`, join(folder, 'units/multi-user.target.wants', name))
  }
  const group = join(groups() ?? '', `scrapellm-proxy-${process.pid}-${booted++}`)
  mkdirSync(group)
  const boot = start(t, 'sh', [
    '-ec',
    enter(group),
    'sh',
    ...unshared,
    'sh',
    '-ec',
    inside(join(folder, 'units'), mounts),
  ])
  await boot.saw(/^booting$/m)
  const init = readFileSync(`/proc/${boot.pid()}/task/${boot.pid()}/children`, 'utf8').trim()
  t.teardown(async () => {
    // With process 1, the kernel ends all others of its namespace.
    process.kill(Number(init), 'SIGKILL')
    await boot.ended
    removeGroup(group)
    rmSync(folder, { recursive: true, force: true })
  })
  const there = ['-t', init, '--mount', '--pid', '--uts', '--ipc', '--cgroup']
  const run: Systemd['run'] = (...command) => spawnSync('nsenter', [...there, ...command], { encoding: 'utf8' })
  // Until it listens to commands, nothing else can tell how far it is.
  run('sh', '-c', 'until [ -S /run/systemd/private ]; do sleep 0.05; done; systemctl is-system-running --wait')
  return { run, start: (...command) => start(t, 'nsenter', [...there, ...command]) }
}

function enter(group: string): string {
  return `echo $$ > ${group}/cgroup.procs; exec "$@"`
}

function inside(units: string, mounts: Readonly<Record<string, string>>): string {
  const bound = Object.entries(mounts).map(([from, to]) => `bind '${from}' /opt${to}`)
  return `
    mount --make-rprivate /
    bind() { if [ -d "$1" ]; then mkdir -p "$2"; else mkdir -p "$(dirname "$2")"; touch "$2"; fi; mount --bind "$1" "$2"; }
    mount -t tmpfs -o mode=755 tmpfs /opt
    ${bound.join('\n    ')}
    mount -t tmpfs -o mode=755 tmpfs /run
    cp -r '${units}' /run/units
    for folder in /tmp /var/tmp /var/lib; do mount -t tmpfs -o mode=755 tmpfs $folder; done
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount --bind /proc/sys /proc/sys
    mount -o remount,bind,ro /proc/sys
    mount --make-rshared /
    echo booting
    exec env -i PATH=/usr/bin:/bin container=test SYSTEMD_UNIT_PATH=/run/units ${program} --system --unit=multi-user.target --log-target=console --show-status=0`
}

/** Where this machine has its cgroup2 file system. */
function groups(): string | null {
  const line = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .find((one) => one.split(' ')[2] === 'cgroup2')
  return line?.split(' ')[1] ?? null
}

function removeGroup(path: string): void {
  for (const one of readdirSync(path, { withFileTypes: true })) if (one.isDirectory()) removeGroup(join(path, one.name))
  rmdirSync(path)
}
