//! The list of the recorded messages, for tests that are named after them.
//!
//! A macro, because a test needs a name when it is compiled; that it is complete is a test of this crate.

/// Hands the recorded messages to a macro: for each generation the name of a module, the variant of
/// [`Generation`](crate::fixtures::Generation) and the cases, which [`fixtures::message`](crate::fixtures::message) loads.
///
/// ```
/// # use edgehold_test_support::fixtures::{self, Generation};
/// macro_rules! a_test_each {
///     ($($module:ident $generation:ident: [$($case:ident)*])*) => {$(
///         mod $module {
///             $(#[test]
///             fn $case() {
///                 super::check(super::Generation::$generation, stringify!($case));
///             })*
///         }
///     )*};
/// }
/// edgehold_test_support::recorded_messages!(a_test_each);
///
/// fn check(generation: Generation, case: &str) {
///     let message = fixtures::message(generation, case).unwrap();
///     assert!(message.topic.starts_with("edgex/"));
/// }
/// # check(Generation::V3, "message_003_events_device_json_Bool");
/// ```
#[macro_export]
macro_rules! recorded_messages {
    ($callback:ident) => {
        $callback! {
            v3 V3: [
                message_001_events_device_json_BoolArray
                message_002_events_device_json_BoolArray
                message_003_events_device_json_Bool
                message_005_events_device_json_Int64Array
                message_006_events_device_json_Int64Array
                message_007_events_device_json_Int32
                message_009_events_device_json_Int32Array
                message_010_events_device_json_Int32Array
                message_011_events_device_json_Int8Array
                message_013_events_device_json_Int8
                message_014_events_device_json_Int8
                message_015_events_device_json_Int16
                message_017_events_device_json_Int16Array
                message_018_events_device_json_Int16Array
                message_019_events_device_json_Int64
                message_021_events_device_json_Uint16
                message_022_events_device_json_Uint16
                message_023_events_device_json_Uint64
                message_025_events_device_json_Uint8
                message_026_events_device_json_Uint8
                message_027_events_device_json_Uint32Array
                message_029_events_device_json_Uint64Array
                message_030_events_device_json_Uint64Array
                message_031_events_device_json_Uint32
                message_033_events_device_json_Uint8Array
                message_034_events_device_json_Uint8Array
                message_035_events_device_json_Uint16Array
                message_037_events_device_json_Float32
                message_038_events_device_json_Float32
                message_039_events_device_json_Float64
                message_041_events_device_json_Float32Array
                message_042_events_device_json_Float32Array
                message_043_events_device_json_Float64Array
                message_045_events_device_json_Binary
                message_046_events_device_json_Binary
                message_047_events_device_json_Readonly
                message_049_events_device_json_Mixed
                message_050_events_device_json_Mixed
                message_051_events_device_json_Floats
                message_053_validate_json_device
                message_054_response_json_47a21b46_0bd6_4a22_be2c_a7ddba45e8a7
                message_055_system_events_json_Multi_Reading_Profile
                message_057_system_events_json_Multi_Reading_Profile
                message_058_telemetry_json_HttpExportErrors
                message_059_telemetry_json_HttpExportErrors
                message_061_telemetry_json_HttpExportSize
                message_062_telemetry_json_PipelineMessagesProcessed
                message_063_telemetry_json_PipelineMessagesProcessed
                message_065_telemetry_json_PipelineMessageProcessingTime
                message_066_telemetry_json_PipelineProcessingErrors
                message_067_telemetry_json_PipelineProcessingErrors
                message_069_telemetry_json_MessagesReceived
                message_070_telemetry_json_InvalidMessagesReceived
                message_071_telemetry_json_InvalidMessagesReceived
                message_073_telemetry_json_SecuritySecretsRequested
                message_074_telemetry_json_SecuritySecretsStored
                message_075_telemetry_json_SecuritySecretsRequested
                message_077_telemetry_json_SecuritySecretsStored
                message_078_telemetry_json_LastConnected
                message_079_telemetry_json_EventsSent
                message_081_system_events_json_device_virtual
                message_082_telemetry_json_SecuritySecretsRequested
                message_083_telemetry_json_SecuritySecretsStored
                message_085_events_device_cbor_Uint64
                message_086_events_device_cbor_Mixed
                message_087_events_device_cbor_Floats
                message_089_events_device_cbor_Binary
                message_090_events_device_cbor_Float32
                message_091_events_device_cbor_Float64
                message_093_events_device_cbor_Float64Array
                message_094_events_device_cbor_Uint8
                message_095_events_device_cbor_Uint16
                message_097_events_device_cbor_Int16
                message_098_events_device_cbor_Uint8Array
                message_099_events_device_cbor_Uint16Array
                message_101_events_device_cbor_Uint64Array
                message_102_events_device_cbor_Int8
                message_103_events_device_cbor_Int8Array
                message_105_events_device_cbor_Int64
                message_106_events_device_cbor_Int32Array
                message_107_events_device_cbor_Int16Array
                message_109_events_device_cbor_Bool
            ]
            v4 V4: [
                message_001_configs_json_IsCommonConfigReady
                message_002_configs_json_Interval
                message_003_configs_json_SecurityGetSecretDuration
                message_005_configs_json_SecuritySecretsRequested
                message_006_configs_json_SecuritySecretsStored
                message_007_configs_json_HttpExportErrors
                message_009_configs_json_InvalidMessagesReceived
                message_010_configs_json_MessagesReceived
                message_011_configs_json_MqttExportErrors
                message_013_configs_json_PipelineMessageProcessingTime
                message_014_configs_json_PipelineMessagesProcessed
                message_015_configs_json_PipelineProcessingErrors
                message_017_configs_json_EventsSent
                message_018_configs_json_LastConnected
                message_019_configs_json_ReadingsSent
                message_021_configs_json_EventsPersisted
                message_022_system_events_json_device_virtual
                message_023_system_events_json_Random_Binary_Device
                message_025_system_events_json_Random_Float_Device
                message_026_system_events_json_Random_Integer_Device
                message_027_system_events_json_Random_UnsignedInteger_Device
                message_029_validate_json_device
                message_030_response_json_5db403b0_bbe8_40b2_b2fe_69bf25d1fe82
                message_031_system_events_json_Random_Boolean_Device
                message_033_system_events_json_Random_UnsignedInteger_Device
                message_034_system_events_json_Random_Float_Device
                message_035_system_events_json_Random_Binary_Device
                message_037_events_device_json_BoolArray
                message_038_events_device_json_BoolArray
                message_039_events_device_json_Bool
                message_041_events_device_json_Int32
                message_042_events_device_json_Int32
                message_043_events_device_json_Int64Array
                message_045_events_device_json_Int8
                message_046_events_device_json_Int8
                message_047_events_device_json_Int16
                message_049_events_device_json_Int8Array
                message_050_events_device_json_Int8Array
                message_051_events_device_json_Int64
                message_053_events_device_json_Int16Array
                message_054_events_device_json_Int16Array
                message_055_events_device_json_Int32Array
                message_057_events_device_json_Uint32Array
                message_058_events_device_json_Uint32Array
                message_059_events_device_json_Uint8Array
                message_061_events_device_json_Uint32
                message_062_events_device_json_Uint32
                message_063_events_device_json_Uint64
                message_065_events_device_json_Uint16Array
                message_066_events_device_json_Uint16Array
                message_067_events_device_json_Uint64Array
                message_069_events_device_json_Uint8
                message_070_events_device_json_Uint8
                message_071_events_device_json_Uint16
                message_073_events_device_json_Float32
                message_074_events_device_json_Float32
                message_075_events_device_json_Float64Array
                message_077_events_device_json_Float64
                message_078_events_device_json_Float64
                message_079_events_device_json_Float32Array
                message_081_events_device_json_Binary
                message_082_events_device_json_Binary
                message_083_events_device_json_Readonly
                message_085_events_device_json_Floats
                message_086_events_device_json_Floats
                message_087_events_device_json_Mixed
                message_089_system_events_json_Multi_Reading_Profile
                message_090_system_events_json_Multi_Reading_Profile
                message_091_telemetry_json_SecuritySecretsRequested
                message_093_telemetry_json_StoreForwardQueueSize
                message_094_telemetry_json_StoreForwardQueueSize
                message_095_telemetry_json_PipelineMessagesProcessed
                message_097_telemetry_json_PipelineMessageProcessingTime
                message_098_telemetry_json_PipelineMessageProcessingTime
                message_099_telemetry_json_HttpExportSize
                message_101_telemetry_json_SecuritySecretsStored
                message_102_telemetry_json_SecuritySecretsStored
                message_103_telemetry_json_PipelineProcessingErrors
                message_105_telemetry_json_MessagesReceived
                message_106_telemetry_json_MessagesReceived
                message_107_telemetry_json_InvalidMessagesReceived
                message_109_telemetry_json_HttpExportErrors
                message_110_telemetry_json_HttpExportErrors
                message_111_telemetry_json_SecuritySecretsRequested
                message_113_telemetry_json_SecuritySecretsStored
                message_114_telemetry_json_SecuritySecretsStored
                message_115_telemetry_json_SecuritySecretsRequested
                message_117_telemetry_json_LastConnected
                message_118_telemetry_json_SecuritySecretsStored
                message_119_telemetry_json_EventsSent
                message_121_telemetry_json_SecuritySecretsRequested
                message_122_system_events_json_device_virtual
                message_123_events_device_cbor_BoolArray
                message_125_events_device_cbor_Float64
                message_126_events_device_cbor_Float32
                message_127_events_device_cbor_Bool
                message_129_events_device_cbor_Float64Array
                message_130_events_device_cbor_Uint64Array
                message_131_events_device_cbor_Int16Array
                message_133_events_device_cbor_Floats
                message_134_events_device_cbor_Readonly
                message_135_events_device_cbor_Int16
                message_137_events_device_cbor_Int64
                message_138_events_device_cbor_Int32
                message_139_events_device_cbor_Int8Array
                message_141_events_device_cbor_Int32Array
                message_142_events_device_cbor_Uint32
                message_143_events_device_cbor_Int64Array
                message_145_events_device_cbor_Uint16
                message_146_events_device_cbor_Uint64
                message_147_events_device_cbor_Uint16Array
                message_149_events_device_base64_BoolArray
                message_150_events_device_base64_Uint32
                message_151_events_device_base64_Uint16
                message_153_events_device_base64_Readonly
                message_154_events_device_base64_Bool
                message_155_events_device_base64_Uint16Array
                message_157_events_device_base64_Uint64Array
                message_158_events_device_base64_Float32
                message_159_events_device_base64_Int16
                message_161_events_device_base64_Float32Array
                message_162_events_device_base64_Int64
                message_163_events_device_base64_Float64Array
                message_165_events_device_base64_Binary
                message_166_events_device_base64_Int16Array
                message_167_events_device_base64_Int32Array
                message_169_events_device_base64_Int64Array
                message_170_events_device_base64_Uint64
                message_171_events_device_base64_Float64
                message_173_events_device_base64_Mixed
                message_174_events_device_base64_Uint32Array
                message_175_events_device_base64cbor_BoolArray
                message_177_events_device_base64cbor_Readonly
                message_178_events_device_base64cbor_Bool
                message_179_events_device_base64cbor_Int8
                message_181_events_device_base64cbor_Int32
                message_182_events_device_base64cbor_Int64
                message_183_events_device_base64cbor_Int8Array
                message_185_events_device_base64cbor_Int32Array
                message_186_events_device_base64cbor_Int64Array
                message_187_events_device_base64cbor_Uint8
                message_189_events_device_base64cbor_Uint32
                message_190_events_device_base64cbor_Uint64
                message_191_events_device_base64cbor_Uint8Array
                message_193_events_device_base64cbor_Uint32Array
                message_194_events_device_base64cbor_Float32Array
                message_195_events_device_base64cbor_Float32
                message_197_events_device_base64cbor_Binary
                message_198_events_device_base64cbor_Float64Array
                message_199_events_device_base64cbor_Mixed
            ]
        }
    };
}
