// A relying party built on openid-client, which nobody here wrote: it checks everything that a certified client checks.
// The test's browser walks through /login and /callback; the rest it asks for over plain JSON.
//
//   node relying_party.mjs PORT ISSUER CLIENT_ID (basic|post)      with CLIENT_SECRET in the environment

import http from 'node:http'
import * as oidc from 'openid-client'

const [port, issuer, clientId, method] = process.argv.slice(2)
const secret = process.env.CLIENT_SECRET
const here = `http://127.0.0.1:${port}`
const authentication = method === 'basic' ? oidc.ClientSecretBasic(secret) : oidc.ClientSecretPost(secret)
const options = { execute: [oidc.allowInsecureRequests] } // the hub is on loopback
const config = await oidc.discovery(new URL(issuer), clientId, {}, authentication, options)

let pending = null
let tokens = null

const actions = {
  async '/login' (url) {
    const verifier = oidc.randomPKCECodeVerifier()
    pending = { verifier, state: oidc.randomState(), nonce: oidc.randomNonce() }
    const parameters = {
      redirect_uri: `${here}/callback`,
      scope: 'openid profile email offline_access',
      code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
      state: pending.state,
      nonce: pending.nonce,
      ...Object.fromEntries(url.searchParams)
    }
    return { redirect: oidc.buildAuthorizationUrl(config, parameters).href }
  },
  async '/callback' (url) {
    const { verifier, state, nonce } = pending ?? {}
    pending = null
    tokens = await oidc.authorizationCodeGrant(config, url, {
      pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce, idTokenExpected: true
    })
    return { claims: tokens.claims(), scope: tokens.scope, expires_in: tokens.expires_in, token_type: tokens.token_type }
  },
  async '/userinfo' () {
    return await oidc.fetchUserInfo(config, tokens.access_token, tokens.claims?.()?.sub ?? oidc.skipSubjectCheck)
  },
  async '/refresh' () {
    const before = tokens
    const answer = await oidc.refreshTokenGrant(config, before.refresh_token)
    tokens = { ...before, ...answer, claims: before.claims }
    return { rotated: answer.refresh_token !== undefined && answer.refresh_token !== before.refresh_token }
  },
  async '/introspect' () {
    return await oidc.tokenIntrospection(config, tokens.access_token)
  },
  async '/revoke' () {
    await oidc.tokenRevocation(config, tokens.refresh_token)
    return {}
  },
  async '/client-credentials' (url) {
    const answer = await oidc.clientCredentialsGrant(config, Object.fromEntries(url.searchParams))
    return { token_type: answer.token_type, expires_in: answer.expires_in }
  },
  async '/logout' () {
    const parameters = { id_token_hint: tokens.id_token, post_logout_redirect_uri: `${here}/signed-out`, state: 'bye' }
    return { redirect: oidc.buildEndSessionUrl(config, parameters).href }
  },
  async '/signed-out' (url) {
    return { signed_out: true, state: url.searchParams.get('state') }
  },
  async '/metadata' () {
    return config.serverMetadata()
  }
}

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, here)
  const action = actions[url.pathname]
  if (!action) { response.writeHead(404).end(); return }
  try {
    const result = await action(url)
    if (result.redirect) { response.writeHead(303, { location: result.redirect }).end(); return }
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(result))
  } catch (error) {
    const { name, code, error: oauth, error_description: description, status, message } = error
    const body = { name, code, error: oauth, error_description: description, status, message }
    response.writeHead(502, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  }
})
server.listen(Number(port), '127.0.0.1')
