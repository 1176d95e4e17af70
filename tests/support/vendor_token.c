/* A PKCS#11 module that lets SoftHSM do the work and has the peculiarities that a vendor documents for its own token.

   Compiled with MODULE, which is SoftHSM, and QUIRKS, some of the words below. It stands in for tokens that are not at
   hand: what is true of it is what their documentation says, and no more. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

typedef unsigned long ULONG;
typedef unsigned char BYTE;
typedef ULONG (*FUNCTION)();

typedef struct { BYTE version[2]; FUNCTION at[68]; } FUNCTION_LIST;
typedef struct { ULONG mechanism; void *parameter; ULONG length; } MECHANISM;
typedef struct { BYTE *iv; ULONG iv_length, iv_bits; BYTE *aad; ULONG aad_length, tag_bits; } GCM_PARAMETERS;
typedef struct { ULONG type; void *value; ULONG length; } ATTRIBUTE;

/* Places in CK_FUNCTION_LIST, in the order of the standard. */
enum {
    INITIALIZE = 0, GET_INFO = 2, GET_TOKEN_INFO = 6, GET_MECHANISM_LIST = 7, GET_MECHANISM_INFO = 8, OPEN_SESSION = 12,
    CREATE_OBJECT = 20, DESTROY_OBJECT = 22, GET_ATTRIBUTE_VALUE = 24, ENCRYPT_INIT = 29, ENCRYPT = 30, DECRYPT_INIT = 33,
    DECRYPT = 34, WRAP_KEY = 60, UNWRAP_KEY = 61, GENERATE_RANDOM = 64,
};
enum {
    OK = 0x00, GENERAL_ERROR = 0x05, FUNCTION_FAILED = 0x06, ARGUMENTS_BAD = 0x07, MECHANISM_PARAM_INVALID = 0x71,
    SESSION_READ_ONLY = 0xB5, BUFFER_TOO_SMALL = 0x150,
};
enum { AES_GCM = 0x1087, AES_KEY_WRAP = 0x2109, VENDOR = 0x80000000, LUNA_AES_KW = 0x80000170 };

static FUNCTION_LIST *real, ours;
static MECHANISM encrypting, decrypting;
static ULONG encrypting_key, decrypting_key;

static int is(const char *quirk)
{
    return strstr(QUIRKS, quirk) != NULL;
}

/* What the token calls AES key wrap. */
static ULONG key_wrap(void)
{
    return is("cloudhsm") ? VENDOR | AES_KEY_WRAP : is("luna") ? (ULONG)LUNA_AES_KW : (ULONG)AES_KEY_WRAP;
}

static ULONG initialize(void *arguments)
{
    /* "arguments": they must say where=here. */
    if (is("arguments")) {
        char *reserved = arguments ? ((char **)arguments)[5] : NULL;
        if (!reserved || strcmp(reserved, "where=here"))
            return ARGUMENTS_BAD;
        arguments = NULL;
    }
    return real->at[INITIALIZE](arguments);
}

static void say(BYTE *where, ULONG length, const char *what)
{
    memset(where, ' ', length);
    memcpy(where, what, strlen(what));
}

static const char *manufacturer(void)
{
    return is("nshield") ? "nCipher Corp. Ltd" : is("luna") ? "SafeNet" : "Example";
}

/* CK_INFO: version (2 bytes), manufacturer (32), flags (at 40), description (32). */
static ULONG get_info(BYTE *info)
{
    ULONG answer = real->at[GET_INFO](info);
    say(info + 2, 32, manufacturer());
    say(info + 48, 32, is("cloudhsm") ? "CloudHSM PKCS#11" : is("luna") ? "Chrystoki" : "A module as documented");
    return answer;
}

/* CK_TOKEN_INFO: label (32 bytes), manufacturer (32), model (16), and so on. */
static ULONG get_token_info(ULONG slot, BYTE *info)
{
    ULONG answer = real->at[GET_TOKEN_INFO](slot, info);
    say(info + 32, 32, manufacturer());
    say(info + 64, 16, "One");
    return answer;
}

static ULONG get_mechanism_list(ULONG slot, ULONG *list, ULONG *count)
{
    ULONG answer = real->at[GET_MECHANISM_LIST](slot, list, count), kept = 0;
    if (answer != OK || !list)
        return answer;
    for (ULONG i = 0; i < *count; i++) {
        if (list[i] == AES_GCM && is("no-gcm"))
            continue;
        if (list[i] == AES_KEY_WRAP && is("no-key-wrap"))
            continue;
        list[kept++] = list[i] == AES_KEY_WRAP ? key_wrap() : list[i];
    }
    *count = kept;
    return OK;
}

static ULONG get_mechanism_info(ULONG slot, ULONG mechanism, void *info)
{
    return real->at[GET_MECHANISM_INFO](slot, mechanism == key_wrap() ? (ULONG)AES_KEY_WRAP : mechanism, info);
}

static ULONG open_session(ULONG slot, ULONG flags, void *application, void *notify, ULONG *session)
{
    if (is("cloudhsm") && !(flags & 2))
        return SESSION_READ_ONLY;
    return real->at[OPEN_SESSION](slot, flags, application, notify, session);
}

static ULONG encrypt_init(ULONG session, MECHANISM *mechanism, ULONG key)
{
    encrypting = *mechanism, encrypting_key = key;
    if (is("luna") && mechanism->mechanism == LUNA_AES_KW)
        return OK;
    if (mechanism->mechanism == AES_GCM && (is("cloudhsm") || is("fips"))) {
        GCM_PARAMETERS *gcm = mechanism->parameter;
        static const BYTE zeros[12];
        if (is("cloudhsm") && (gcm->iv_length != 12 || memcmp(gcm->iv, zeros, 12)))
            return MECHANISM_PARAM_INVALID;
        real->at[GENERATE_RANDOM](session, gcm->iv, 12UL);
    }
    return real->at[ENCRYPT_INIT](session, mechanism, key);
}

static ULONG encrypt(ULONG session, BYTE *data, ULONG length, BYTE *result, ULONG *result_length)
{
    if (is("luna") && encrypting.mechanism == LUNA_AES_KW) {
        ULONG class = 4, type = 0x10, passenger, answer;
        BYTE yes = 1, no = 0;
        ATTRIBUTE secret[] = {{0, &class, 8}, {0x100, &type, 8}, {1, &no, 1}, {0x103, &no, 1}, {0x162, &yes, 1}, {0x11, data, length}};
        MECHANISM wrap = {AES_KEY_WRAP, NULL, 0};
        if (!result)
            return *result_length = length + 8, OK;
        if ((answer = real->at[CREATE_OBJECT](session, secret, 6UL, &passenger)) != OK)
            return answer;
        answer = real->at[WRAP_KEY](session, &wrap, encrypting_key, passenger, result, result_length);
        real->at[DESTROY_OBJECT](session, passenger);
        return answer;
    }
    /* Luna in FIPS mode: the IV that the HSM has made follows the tag, in 16 bytes. */
    ULONG more = is("fips") && encrypting.mechanism == AES_GCM ? 16 : 0;
    if (!result) {
        ULONG answer = real->at[ENCRYPT](session, data, length, NULL, result_length);
        return *result_length += more, answer;
    }
    if (*result_length < more)
        return BUFFER_TOO_SMALL;
    *result_length -= more;
    ULONG answer = real->at[ENCRYPT](session, data, length, result, result_length);
    if (answer == OK && more)
        real->at[GENERATE_RANDOM](session, result + *result_length, more), *result_length += more;
    return answer;
}

static ULONG decrypt_init(ULONG session, MECHANISM *mechanism, ULONG key)
{
    decrypting = *mechanism, decrypting_key = key;
    if (is("luna") && mechanism->mechanism == LUNA_AES_KW)
        return OK;
    return real->at[DECRYPT_INIT](session, mechanism, key);
}

static ULONG decrypt(ULONG session, BYTE *data, ULONG length, BYTE *result, ULONG *result_length)
{
    if (is("luna") && decrypting.mechanism == LUNA_AES_KW) {
        ULONG class = 4, type = 0x10, passenger, answer;
        BYTE yes = 1, no = 0;
        ATTRIBUTE template[] = {{0, &class, 8}, {0x100, &type, 8}, {1, &no, 1}, {0x103, &no, 1}, {0x162, &yes, 1}};
        ATTRIBUTE value = {0x11, result, 0};
        MECHANISM wrap = {AES_KEY_WRAP, NULL, 0};
        if (!result)
            return *result_length = length, OK;
        value.length = *result_length;
        if ((answer = real->at[UNWRAP_KEY](session, &wrap, decrypting_key, data, length, template, 5UL, &passenger)) != OK)
            return answer;
        answer = real->at[GET_ATTRIBUTE_VALUE](session, passenger, &value, 1UL);
        *result_length = value.length;
        real->at[DESTROY_OBJECT](session, passenger);
        return answer;
    }
    ULONG answer = real->at[DECRYPT](session, data, length, result, result_length);
    return answer == GENERAL_ERROR && is("nshield") ? FUNCTION_FAILED : answer;
}

static ULONG named(ULONG mechanism)
{
    return mechanism == key_wrap() ? (ULONG)AES_KEY_WRAP : mechanism;
}

static ULONG wrap_key(ULONG session, MECHANISM *mechanism, ULONG wrapping, ULONG key, BYTE *result, ULONG *length)
{
    MECHANISM under = {named(mechanism->mechanism), mechanism->parameter, mechanism->length};
    return real->at[WRAP_KEY](session, &under, wrapping, key, result, length);
}

static ULONG unwrap_key(ULONG session, MECHANISM *mechanism, ULONG unwrapping, BYTE *data, ULONG length, void *template,
                        ULONG count, ULONG *key)
{
    MECHANISM under = {named(mechanism->mechanism), mechanism->parameter, mechanism->length};
    ULONG answer = real->at[UNWRAP_KEY](session, &under, unwrapping, data, length, template, count, key);
    return answer == GENERAL_ERROR && is("nshield") ? FUNCTION_FAILED : answer;
}

static void load(void)
{
    void *module = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
    ULONG (*get)(FUNCTION_LIST **) = module ? dlsym(module, "C_GetFunctionList") : NULL;
    if (!get || get(&real) != OK)
        return;
    ours = *real;
    ours.at[INITIALIZE] = (FUNCTION)initialize, ours.at[GET_INFO] = (FUNCTION)get_info;
    ours.at[GET_TOKEN_INFO] = (FUNCTION)get_token_info;
    ours.at[GET_MECHANISM_LIST] = (FUNCTION)get_mechanism_list, ours.at[GET_MECHANISM_INFO] = (FUNCTION)get_mechanism_info;
    ours.at[OPEN_SESSION] = (FUNCTION)open_session;
    ours.at[ENCRYPT_INIT] = (FUNCTION)encrypt_init, ours.at[ENCRYPT] = (FUNCTION)encrypt;
    ours.at[DECRYPT_INIT] = (FUNCTION)decrypt_init, ours.at[DECRYPT] = (FUNCTION)decrypt;
    ours.at[WRAP_KEY] = (FUNCTION)wrap_key, ours.at[UNWRAP_KEY] = (FUNCTION)unwrap_key;
}

ULONG C_GetFunctionList(FUNCTION_LIST **list)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    *list = &ours;
    return real ? OK : GENERAL_ERROR;
}
