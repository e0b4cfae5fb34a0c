// oidc-provider with its tokens in Redis. Arguments: port, URL of the store, client secret.

import http from 'node:http'
import { Redis } from 'ioredis'
import { Provider } from 'oidc-provider'

const [port, store, secret] = process.argv.slice(2)
const redis = new Redis(store)

class Adapter {
  constructor(name) {
    this.name = name
  }

  key(id) {
    return `oidc:${this.name}:${id}`
  }

  async upsert(id, payload, expiresIn) {
    const text = JSON.stringify(payload)
    if (expiresIn) await redis.set(this.key(id), text, 'EX', expiresIn)
    else await redis.set(this.key(id), text)
    if (payload.grantId) await redis.rpush(`oidc:grant:${payload.grantId}`, this.key(id))
  }

  async find(id) {
    const text = await redis.get(this.key(id))
    return text ? JSON.parse(text) : undefined
  }

  async findByUid() {}
  async findByUserCode() {}

  async destroy(id) {
    await redis.del(this.key(id))
  }

  async consume(id) {
    const payload = await this.find(id)
    if (payload) await this.upsert(id, { ...payload, consumed: Math.floor(Date.now() / 1000) })
  }

  async revokeByGrantId(grantId) {
    const keys = await redis.lrange(`oidc:grant:${grantId}`, 0, -1)
    await redis.del(...keys, `oidc:grant:${grantId}`)
  }
}

const provider = new Provider(`http://127.0.0.1:${port}`, {
  adapter: Adapter,
  clients: [
    {
      client_id: 'bench',
      client_secret: secret,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    },
  ],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
  },
  ttl: { ClientCredentials: 6 * 3600 },
})

const handle = provider.callback()
http
  .createServer((request, response) => {
    if (request.url === '/readyz') response.end('ready')
    else handle(request, response)
  })
  .listen(Number(port), '127.0.0.1')
