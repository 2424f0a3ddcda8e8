// A relying party built on express-openid-connect, which nobody here wrote, with its back-channel logout switched on.
//
//   node express_openid_connect.mjs PORT ISSUER CLIENT_ID      with CLIENT_SECRET in the environment

import express from 'express'
import { auth } from 'express-openid-connect'

const [port, issuer, clientID] = process.argv.slice(2)
const kept = new Map()
const store = {
  get: (id, done) => done(null, kept.get(id)),
  set: (id, value, done) => done(null, kept.set(id, value)),
  destroy: (id, done) => done(null, kept.delete(id))
}
const app = express()
app.use(auth({
  issuerBaseURL: issuer,
  baseURL: `http://127.0.0.1:${port}`,
  clientID,
  clientSecret: process.env.CLIENT_SECRET,
  secret: 'a-long-enough-secret-of-this-test-alone',
  idTokenSigningAlg: 'ES256',
  authorizationParams: { response_type: 'code', scope: 'openid profile' },
  session: { store },
  backchannelLogout: true
}))
app.get('/secret', (request, response) => response.json(request.oidc.user))
app.listen(port, '127.0.0.1')
