/**
 * What the tests need beside Node: Debian packages. Run before the tests (`npm test` does). Installs what is missing where it may
 * (root on Debian) and says so; elsewhere stops with one line that names what is missing. Never skips quietly.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'

interface Need {
  readonly package: string
  readonly probe: readonly [command: string, ...args: string[]]
}

const NEEDS: readonly Need[] = [
  { package: 'python3-requests', probe: ['/usr/bin/python3', '-c', 'import requests'] },
  { package: 'python3-httpx', probe: ['/usr/bin/python3', '-c', 'import httpx'] },
  { package: 'golang-go', probe: ['go', 'version'] },
  { package: 'redis-server', probe: ['redis-server', '--version'] },
  { package: 'iproute2', probe: ['ip', '-V'] },
  { package: 'tinyproxy-bin', probe: ['tinyproxy', '-v'] },
  { package: 'openssl', probe: ['openssl', 'version'] },
  { package: 'curl', probe: ['curl', '--version'] },
  { package: 'chromium', probe: ['/usr/bin/chromium', '--version'] },
  { package: 'prometheus', probe: ['promtool', '--version'] },
  { package: 'prometheus-alertmanager', probe: ['amtool', '--version'] },
]

function isThere({ probe: [command, ...args] }: Need): boolean {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0
}

function run(command: string, args: readonly string[]): boolean {
  const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  return spawnSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'], env: environment }).status === 0
}

const missing = NEEDS.filter((need) => !isThere(need))
const names = missing.map((need) => need.package)
if (names.length > 0) {
  const may = process.getuid?.() === 0 && existsSync('/etc/debian_version')
  if (may) {
    console.log(`The tests need Debian packages that are not here: installing ${names.join(', ')}`)
    const install = ['install', '--yes', '--no-install-recommends', ...names]
    if (!run('apt-get', install) && run('apt-get', ['update'])) run('apt-get', install)
  }
  const still = missing.filter((need) => !isThere(need)).map((need) => need.package)
  if (still.length > 0) {
    console.error(
      `The tests need Debian packages that are missing: ${still.join(', ')} (apt-get install ${still.join(' ')})`,
    )
    process.exit(1)
  }
}
