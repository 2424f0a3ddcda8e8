// What a browser makes of an address: the URL Standard's parser of this runtime, one JSON text a line, one answer each.
import { createInterface } from 'node:readline'

for await (const line of createInterface({ input: process.stdin })) {
  let answer = null
  try {
    const { protocol, username, password, hostname, port, pathname, search, hash } = new URL(JSON.parse(line))
    answer = { protocol, username, password, hostname, port, pathname, search, hash }
  } catch {}
  process.stdout.write(JSON.stringify(answer) + '\n')
}
